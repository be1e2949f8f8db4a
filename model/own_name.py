"""The name of this package, for messages: `model` in a clone of the repository, `audioclip` if installed."""

import importlib.util

PACKAGE = __name__.rpartition(".")[0]
"""Name under which the package is imported."""

NAMES = ("model", "audioclip")
"""Names that the package has anywhere: class paths in checkpoints begin with one of them."""

COMMAND = "audioclip" if PACKAGE == "audioclip" else f"python -m {PACKAGE}"
"""Words that start the command line."""


def how_to_install(extra: str) -> str:
    """Return the command that installs what an optional part needs, in a clone to be run in its root."""
    return f'pip install "{"audioclip" if PACKAGE == "audioclip" else "."}[{extra}]"'


def require(module: str, *, extra: str) -> None:
    """Raise an ImportError that says how to install an optional third-party module if it is missing."""
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"The package {module} is missing: {how_to_install(extra)}", name=module)
