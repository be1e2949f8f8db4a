"""Sweeps: one run for each combination of values, and a summary of their results."""
