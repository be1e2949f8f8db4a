"""Checks of a data set's files and tables, for `--check`."""

from ignite_trainer.api.findings import Finding


def error(what: str, where: str, remedy: str = "") -> Finding:
    """Report a fault that makes a run fail or its results wrong."""
    return Finding(severity="error", what=what, where=where, remedy=remedy)


def warning(what: str, where: str, remedy: str = "") -> Finding:
    """Report something that is only suspicious."""
    return Finding(severity="warning", what=what, where=where, remedy=remedy)
