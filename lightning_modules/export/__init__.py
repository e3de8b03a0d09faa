"""A recorded model as a file for another runtime: written, read back, verified against the checkpoint, measured, logged."""
