"""What `--check` looks for in the files and tables of a data set."""

from ignite_trainer.api.findings import Finding


def error(what: str, where: str, remedy: str = "") -> Finding:
    """Make a finding that makes a run fail or its figures wrong."""
    return Finding(severity="error", what=what, where=where, remedy=remedy)


def warning(what: str, where: str, remedy: str = "") -> Finding:
    """Make a finding that is only suspicious."""
    return Finding(severity="warning", what=what, where=where, remedy=remedy)
