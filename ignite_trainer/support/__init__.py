"""Utilities that know nothing about runs: errors, files, processes, memory, terminal output."""
