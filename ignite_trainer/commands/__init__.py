"""Commands: run, sweep, check, explain and benchmark."""
