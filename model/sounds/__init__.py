"""Sound files to samples at their own rate."""
