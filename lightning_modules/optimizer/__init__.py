"""Parameter groups, learning-rate schedules, and the optimizers LARS and LAMB."""
