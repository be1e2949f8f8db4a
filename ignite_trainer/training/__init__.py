"""A training step: engines, gradients, optimizer, schedule, precision and metrics."""
