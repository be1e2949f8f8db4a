"""What `--check` finds wrong with the files of a data set."""
