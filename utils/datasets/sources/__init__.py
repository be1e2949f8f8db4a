"""Sources of data sets: tables, folders, decoded audio."""
