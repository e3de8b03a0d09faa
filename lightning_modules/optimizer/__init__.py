"""What torch.optim lacks: parameter groups without decay on norms and biases, and schedules for Lightning."""
