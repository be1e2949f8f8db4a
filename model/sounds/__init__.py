"""Decodes sound files to samples at the file's own rate."""
