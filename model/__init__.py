"""The networks: AudioCLIP, its ESResNeXt audio tower, their losses, weights and inputs.

In a clone of the repository, this package is `model`; installed, it is `audioclip`. Importing it is
quick: the names in `__all__` are imported, with torch, when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .storage.places import ensure_user_name

if TYPE_CHECKING:
    from .audioclip import AudioCLIP
    from .clap import Clap
    from .esresnet import ESResNeXt
    from .weights.releases import WeightsError

__all__ = ["AudioCLIP", "Clap", "ESResNeXt", "WeightsError", "__version__"]

__version__ = "0.1.0"

_MODULES = {
    "AudioCLIP": ".audioclip",
    "Clap": ".clap",
    "ESResNeXt": ".esresnet",
    "WeightsError": ".weights.releases",
}

# torch names a cache folder after the user, so importing torchvision fails if the user has no name, as in
# `docker run --user 12345`.
ensure_user_name()


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    """List the public names too, which need not be imported yet."""
    return sorted({*globals(), *__all__})
