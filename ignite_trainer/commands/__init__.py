"""The commands: run, sweep, check, explain and benchmark."""
