"""Checkpoints and the whole states of runs: written, verified, read."""
