"""Private names of the libraries and patches of their objects: here and nowhere else, each with its reason and a test.

A new version of a library that moves one of them fails tests/compat in seconds. Nothing of this package is imported here.
"""
