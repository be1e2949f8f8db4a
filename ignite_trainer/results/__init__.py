"""Results of finished runs: run folders, `result.json`, averages, the table of all results."""
