"""The record: the store, the logger, what a run came from, and what it gave."""
