"""Downloads, verifies and unpacks published data sets."""
