"""Weights: released files, fetching, reading, and loading into modules."""
