"""What data sets are made from: tables, folders, decoded audio."""
