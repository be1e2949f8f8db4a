"""Saves and loads models in the Hugging Face Hub's layout: weights and config, in a folder or on the hub."""

import json
import re
from pathlib import Path
from typing import Any, TypeVar, cast

from huggingface_hub import ModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save
from torch import nn

from ..storage.atomic import whole_file
from .built_from import NOT_OF_THE_NETWORK
from .fetch import through_proxy
from .hub_folders import HUB_ERRORS, reason
from .loading import load_weights, read_state_dict
from .releases import WeightsError

Model = TypeVar("Model", bound="HubLayout")

CONFIG, WEIGHTS = "config.json", "model.safetensors"

_CARD = """\
---
{{ card_data }}
---

An AudioCLIP: audio, images and text in one embedding space (arXiv 2106.13043). Load it with

    from audioclip import AudioCLIP
    model = AudioCLIP.from_pretrained("FOLDER, OR OWNER/NAME")
"""


class HubLayout(
    ModelHubMixin,
    library_name="audioclip",
    paper_url="https://arxiv.org/abs/2106.13043",
    tags=["audio", "zero-shot", "clip"],
    model_card_template=_CARD,
):
    """Mixin that adds `save_pretrained`, `push_to_hub` and `from_pretrained` to a network.

    The config contains the constructor arguments, except those that name weights files.
    """

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *, config: dict[str, Any] | None = None, **others: Any
    ) -> str | None:
        """Write weights, config and model card to a folder, created if missing; see `ModelHubMixin`."""
        given = cast(dict[str, Any], self._hub_mixin_config or {}) if config is None else config
        kept = {name: value for name, value in given.items() if name not in NOT_OF_THE_NETWORK}
        return super().save_pretrained(save_directory, config=kept, **others)

    def _save_pretrained(self, save_directory: Path) -> None:
        state = cast(nn.Module, self).state_dict()
        content = save({name: value.contiguous() for name, value in state.items()})
        # safetensors' save_file creates files that only the owner can read.
        with whole_file(save_directory / WEIGHTS) as file:
            file.write(content)

    @classmethod
    def from_pretrained(cls: type[Model], source: str | Path, **arguments: Any) -> Model:  # type: ignore[override]
        """Build a network from a folder in this layout or a repository `owner/name` on the hub.

        Args:
            source: path of the folder, or name of the repository.
            arguments: constructor arguments that override those in the config, and huggingface_hub's
                `revision`, `token`, `cache_dir` and `local_files_only`.

        Raises:
            WeightsError: The model does not exist, cannot be fetched, or does not match the network.
        """
        try:
            return super().from_pretrained(source, **arguments)
        except LocalEntryNotFoundError as error:
            raise WeightsError(
                f"{source}: no such folder, and not in the cache of the Hugging Face Hub, which cannot be "
                f"reached{through_proxy(constants.ENDPOINT)} ({error}). Fetch {CONFIG} and {WEIGHTS} on a "
                "machine with a network, and name their folder."
            ) from None
        except json.JSONDecodeError as error:
            raise WeightsError(f"{source}: its {CONFIG} is not JSON ({error}). Fetch it again.") from None
        except HUB_ERRORS as error:
            raise WeightsError(
                f"{source}: no such folder, and cannot be fetched from the Hugging Face Hub"
                f"{through_proxy(constants.ENDPOINT)}: {reason(error)}."
            ) from None

    @classmethod
    def _from_pretrained(cls: type[Model], *, model_id: str, **arguments: Any) -> Model:
        hub = {
            name: arguments.pop(name)
            for name in ("revision", "cache_dir", "force_download", "local_files_only", "token")
        }
        local = Path(model_id) / WEIGHTS
        path = local if Path(model_id).is_dir() else Path(hf_hub_download(model_id, WEIGHTS, **hub))
        network = cls(**{**arguments, "pretrained": False})
        load_weights(cast(nn.Module, network), read_state_dict(path), source=path)
        return network


def is_hub_layout(source: str | Path) -> bool:
    """Return whether a source of weights is a folder in this layout or looks like a repository `owner/name`.

    A path does not name a repository if its parent folder exists or is `results` or `assets`.
    """
    path = Path(source).expanduser()
    if path.exists():
        return (path / CONFIG).is_file()
    if path.parent.name in _OWN_FOLDERS or (path.parent != Path() and path.parent.is_dir()):
        return False
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source))) and path.suffix not in _FILE_SUFFIXES


_OWN_FOLDERS = ("results", "assets")
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")
