"""Distillation: a small network learns from what a trained one says, shows inside, or finds alike."""
