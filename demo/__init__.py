"""Demos of a trained model: folder search, a browser page and a notebook."""
