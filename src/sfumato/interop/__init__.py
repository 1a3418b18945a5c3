"""Models of other programs: read as runs of ours, and written for theirs, without unpickling."""
