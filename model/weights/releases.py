"""Describes the released weights, and finds weights by name or path; missing released files are fetched."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..storage.places import default_assets
from .fetch import FetchError, RemoteFile, fetch
from .run_folders import best_checkpoint

DEFAULT_ASSETS = default_assets()

RANDOM_INSTEAD = "Random weights need no file: pretrained false (in a run, --Model.args.pretrained false)."
"""Advice in messages about weights that cannot be fetched."""


class WeightsError(ValueError):
    """Weights are missing, cannot be read, or do not fit the model."""


@dataclass(frozen=True)
class Release:
    """A weights file published with AudioCLIP v0.1."""

    file: str
    size_bytes: int
    sha256: str
    contents: str

    @property
    def url(self) -> str:
        """URL of the published file."""
        return f"https://github.com/AndreyGuzhov/AudioCLIP/releases/download/v0.1/{self.file}"

    @property
    def remote(self) -> RemoteFile:
        """Published file for `fetch`."""
        return RemoteFile(self.file, self.url, self.size_bytes, f"sha256:{self.sha256}")


RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        "AudioCLIP-Full-Training": Release(
            "AudioCLIP-Full-Training.pt",
            537302068,
            "2441d35b353352c8b1bbfb8f7c687f46314c3d2909e940eaf763b8c17f632c44",
            "all three towers trained on AudioSet",
        ),
        "AudioCLIP-Partial-Training": Release(
            "AudioCLIP-Partial-Training.pt",
            537302068,
            "1921885b6c3b5de0619f2ef4a9700ecbade758a398b34eb064230c30baef0c75",
            "only the audio tower trained on AudioSet; image and text are CLIP's",
        ),
        "CLIP": Release(
            "CLIP.pt",
            408415159,
            "124e6d59d54c0837c456c953b3147adf438a21570d5c5b01ad83f6ad3e78d15e",
            "CLIP RN50: image and text towers",
        ),
        "ESRNXFBSP": Release(
            "ESRNXFBSP.pt",
            124795647,
            "acfcc6b0a0f07025cc660ed6dcf9b5a05fbd7c8ebf65edaa0a81d88a92ff6834",
            "ESResNeXt-fbsp trained on AudioSet: audio tower",
        ),
    }
)


def find_weights(
    source: str | Path, *, assets: str | Path | None = None, others: Iterable[str] = (), instead: str = ""
) -> Path:
    """Resolve a path or a released name to a file; fetch a released file if it is missing.

    Only the size of an existing released file is checked; its hash was checked when it was fetched.

    Args:
        source: path of a file; path of a folder of runs, for the best checkpoint of the newest finished run;
            or a key of `RELEASES`, with or without `.pt`, to look up in `assets`.
        assets: folder of the released weights; None for `model.storage.places.default_assets()`.
        others: further names that the caller accepts, to suggest for a misspelt name.
        instead: advice to append to the message if there is no such file, or it cannot be fetched.

    Raises:
        WeightsError: There is no such file, or it cannot be fetched; the message says what to do.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    release = RELEASES.get(path.name.removesuffix(".pt"))
    if release is None:
        return _find_trained(path, (*RELEASES, *others), instead)
    if path.parent != Path():
        raise WeightsError(
            f"{path}: no such file ({release.contents}). Download {release.remote} to this path, or give "
            f"only the released name to have it fetched: {release.file.removesuffix('.pt')}."
        )
    target = (DEFAULT_ASSETS if assets is None else Path(assets)) / release.file
    try:
        return fetch(release.remote, target)
    except FetchError as error:
        from ..inputs import name_other_kind  # noqa: PLC0415 - imports torch

        other = name_other_kind(target) if target.is_file() else None
        sentences = [str(error), f"It is {other}" if other else "", instead]
        raise WeightsError(" ".join(filter(None, sentences))) from None


def _find_trained(path: Path, names: Iterable[str], instead: str) -> Path:
    """Find the best checkpoint in a folder of runs; if there is no such folder, suggest a similar name."""
    if path.is_dir():
        try:
            return best_checkpoint(path)
        except ValueError as error:
            raise WeightsError(str(error)) from None
    meant = {name: name for name in names}
    if path.parent != Path():
        siblings = path.parent.glob("*")
        meant |= {near.stem: str(near) for near in siblings if near.is_dir() or near.suffix == path.suffix}
    similar = nearest(path.stem, meant)
    raise WeightsError(
        f"{path}: no such file or folder of runs"
        + (f'; did you mean "{meant[similar[0]]}"?' if similar else ".")
        + f" The released weights are {', '.join(RELEASES)}. The folder of a protocol's runs appears "
        "when the protocol is run." + f" {instead}".rstrip()
    )


def nearest(name: str, known: Iterable[str], *, count: int = 1) -> list[str]:
    """Return the known names most similar to `name`, ignoring case, with the most similar first."""
    by_case = {candidate.lower(): candidate for candidate in known}
    return [by_case[near] for near in difflib.get_close_matches(name.lower(), by_case, n=count, cutoff=0.6)]


def released_hashes(files: Iterable[Path]) -> dict[Path, str]:
    """Return the expected sha256 of each file that has the name and size of a released file."""
    found = {path: RELEASES.get(path.name.removesuffix(".pt")) for path in files}
    return {
        path: release.sha256
        for path, release in found.items()
        if release is not None and path.stat().st_size == release.size_bytes
    }
