"""The command line: embed, search, classify and export."""
