"""A protocol from JSON to its classes: read, merged, overridden, validated, resolved."""
