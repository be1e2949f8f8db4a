"""Checks of a data set's files and tables, for `--check`."""

from collections.abc import Iterable

from ignite_trainer.api.findings import Finding


def error(what: str, where: str, remedy: str = "") -> Finding:
    """Report a fault that makes a run fail or its results wrong."""
    return Finding(severity="error", what=what, where=where, remedy=remedy)


def warning(what: str, where: str, remedy: str = "") -> Finding:
    """Report something that is only suspicious."""
    return Finding(severity="warning", what=what, where=where, remedy=remedy)


def unreadable_lines(errors: Iterable[ValueError]) -> list[Finding]:
    """Report the errors of a table's lines."""
    return [error("A line of the table cannot be read.", str(one), "Correct it.") for one in errors]
