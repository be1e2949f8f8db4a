"""Checkpoints and complete states of runs: written, verified, restored."""
