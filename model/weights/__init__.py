"""Weights: finds released files and trained models, fetches and reads files, and loads them into modules."""
