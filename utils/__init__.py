"""Research code, such as data sets, transforms and tasks, which protocols name by dotted path."""
