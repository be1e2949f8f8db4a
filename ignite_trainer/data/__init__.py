"""Batches: their order, loading, collation and copying to the device."""
