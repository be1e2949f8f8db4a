"""Results of finished runs: the run folder, `result.json`, averages, the table of all results."""
