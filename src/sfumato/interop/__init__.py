"""Models of other programs: read into runs of ours, and written for theirs. Nothing is unpickled."""
