"""All that research code imports: the contracts of tasks, data sets, evaluations and reporters."""
