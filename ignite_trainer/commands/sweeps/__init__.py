"""Sweeps: one run for each combination of values, and what they reach together."""
