"""Protocols, from JSON to classes: reading, merging, overrides, validation, imports."""
