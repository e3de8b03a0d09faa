"""``touchstone compress``: the search for the smallest or fastest compression of a run that keeps its quality."""
