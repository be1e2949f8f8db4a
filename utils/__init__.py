"""Research code: data sets, transforms and tasks, reached through a protocol's dotted paths."""
