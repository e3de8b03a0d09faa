"""The configuration itself: which components a recorded one may name."""
