"""Exports a recorded model to another runtime: written, loaded back, compared with the checkpoint, timed, logged."""
