"""The benchmarks: this package and its peers, timed in turn on the same work. `python -m bench`."""
