"""The released weights, and finding weights by name or path; a released file that is absent is fetched."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..file_kinds import name_other_kind
from ..nearest import nearest
from .fetch import FetchError, RemoteFile, fetch
from .run_folders import best_checkpoint

DEFAULT_ASSETS = Path(__file__).parents[2] / "assets"


RANDOM_INSTEAD = "Random weights need no file: pretrained false (in a run, --Model.args.pretrained false)."
"""What a model's argument `pretrained` may also be, for messages about files that cannot be fetched."""


class WeightsError(ValueError):
    """Weights that are not there, cannot be read, or do not fit the model."""


@dataclass(frozen=True)
class Release:
    """One file of weights published with AudioCLIP v0.1."""

    file: str
    size_bytes: int
    sha256: str
    contents: str

    @property
    def url(self) -> str:
        """Where the file is published."""
        return f"https://github.com/AndreyGuzhov/AudioCLIP/releases/download/v0.1/{self.file}"

    @property
    def remote(self) -> RemoteFile:
        """How to fetch it."""
        return RemoteFile(self.file, self.url, self.size_bytes, f"sha256:{self.sha256}")


RELEASES: Mapping[str, Release] = MappingProxyType(
    {
        release.file.removesuffix(".pt"): release
        for release in (
            Release(
                "AudioCLIP-Full-Training.pt",
                537302068,
                "2441d35b353352c8b1bbfb8f7c687f46314c3d2909e940eaf763b8c17f632c44",
                "all three towers trained on AudioSet",
            ),
            Release(
                "AudioCLIP-Partial-Training.pt",
                537302068,
                "1921885b6c3b5de0619f2ef4a9700ecbade758a398b34eb064230c30baef0c75",
                "only the audio tower trained on AudioSet; image and text are CLIP's",
            ),
            Release(
                "CLIP.pt",
                408415159,
                "124e6d59d54c0837c456c953b3147adf438a21570d5c5b01ad83f6ad3e78d15e",
                "CLIP RN50: image and text towers",
            ),
            Release(
                "ESRNXFBSP.pt",
                124795647,
                "acfcc6b0a0f07025cc660ed6dcf9b5a05fbd7c8ebf65edaa0a81d88a92ff6834",
                "ESResNeXt-fbsp trained on AudioSet: audio tower",
            ),
        )
    }
)


def find_weights(
    source: str | Path,
    *,
    assets: str | Path | None = None,
    mirror: str | None = None,
    others: Iterable[str] = (),
    instead: str = "",
) -> Path:
    """Resolve a path, or the name of a released file, to a file; fetch a released one that is not there.

    Of a released file that is there the size is checked; its hash was, when it was fetched.

    Args:
        source: a path, of a file or of a folder of runs, which stands for the best weights of the newest; or
            a key of `RELEASES`, with or without `.pt`, looked up in `assets`.
        assets: folder of the released weights; None: the repository's `assets/`.
        mirror: address of a folder to fetch from; None: `$AUDIOCLIP_MIRROR` if set, else where they are
            published.
        others: names that the caller knows besides; they are suggested for a misspelt one, too.
        instead: what else the caller could take, a sentence for the message about a file that is not fetched.

    Raises:
        WeightsError: there is no such file, and it cannot be fetched: the message says where to get it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    release = RELEASES.get(path.name.removesuffix(".pt"))
    if release is None:
        return _find_trained(path, (*RELEASES, *others))
    if path.parent != Path():
        raise WeightsError(
            f"{path}: not there ({release.contents}). Download {release.remote} and put it there, or name it "
            f"without a folder and it is fetched: {release.file.removesuffix('.pt')}."
        )
    target = (DEFAULT_ASSETS if assets is None else Path(assets)) / release.file
    try:
        return fetch(release.remote, target, mirror=mirror)
    except FetchError as error:
        other = name_other_kind(target) if target.is_file() else None
        said = [str(error), f"It is {other}" if other else "", instead]
        raise WeightsError(" ".join(filter(None, said))) from None


def _find_trained(path: Path, names: Iterable[str]) -> Path:
    """What a run in a folder kept."""
    if not path.is_dir():
        near = _suggestion(path, names)
        raise WeightsError(
            f"{path}: no such file or folder of runs{near or '.'} Released weights go by name: "
            f"{', '.join(RELEASES)}. The folder of a protocol's runs is there once the protocol was carried "
            "out."
        )
    try:
        return best_checkpoint(path)
    except ValueError as error:
        raise WeightsError(str(error)) from None


def _suggestion(path: Path, names: Iterable[str]) -> str:
    """Name weights, or a neighbour, that a path which is not there may mean; "" if none is near."""
    meant = {name: name for name in names}
    if path.parent != Path():
        beside = path.parent.glob("*")
        meant |= {one.stem: str(one) for one in beside if one.is_dir() or one.suffix == path.suffix}
    near = nearest(path.stem, meant)
    return f'; did you mean "{meant[near[0]]}"?' if near else ""


def released_hashes(files: Iterable[Path]) -> dict[Path, str]:
    """The sha256 that files with the name and the size of a released one should have, by path."""
    found = {path: RELEASES.get(path.name.removesuffix(".pt")) for path in files}
    return {
        path: release.sha256
        for path, release in found.items()
        if release is not None and path.stat().st_size == release.size_bytes
    }


def find_pretrained(
    pretrained: bool | str | Path,
    *,
    together: tuple[str, ...],
    assets: str | Path | None = None,
    others: Iterable[str] = (),
) -> tuple[Path, ...]:
    """Resolve a model's argument `pretrained` to files, fetched if need be, before anything else is begun.

    Args:
        pretrained: False: no files. A path, or the name of a released file: this one. True: `together`.
        together: names of the released files that make up the whole model.
        assets: folder of the released weights; None: the repository's `assets/`.
        others: see `find_weights`.

    Raises:
        WeightsError: a file is not there and cannot be fetched.
    """
    if isinstance(pretrained, bool):
        names = together if pretrained else ()
        return tuple(find_weights(name, assets=assets, instead=RANDOM_INSTEAD) for name in names)
    return (find_weights(pretrained, assets=assets, others=others, instead=RANDOM_INSTEAD),)
