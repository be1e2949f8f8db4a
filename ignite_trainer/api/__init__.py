"""The public API for research code: interfaces for tasks, data sets, evaluations and reporters."""
