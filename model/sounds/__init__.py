"""Sound files to samples at their own rate: where the samples are, and how they decode."""
