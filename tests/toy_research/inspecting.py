"""A data set that finds with itself what it is told to, models whose weights have a hash or are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite_trainer.api.findings import Finding, Inspection, Space
from toy_research.network import TwoTowers
from toy_research.signals import Tones


class Doubtful(Tones):
    """Tones, of which so many are "bad" or "odd", and that take "room" bytes in "folder", as told."""

    def __init__(self, *, told: Mapping[str, Any], train: bool = True, fold: int = 1) -> None:
        super().__init__(train=train, fold=fold)
        self.told = told

    @classmethod
    def inspect_data(cls, *, told: Mapping[str, Any], **_: Any) -> Inspection:
        """Find what it was told to; raise what it was told to."""
        if "raises" in told:
            raise RuntimeError(told["raises"])
        odd = [
            Finding(severity="warning", what="It is odd.", where=f"tone {number}")
            for number in range(told.get("odd", 0))
        ]
        bad = [
            Finding(
                severity="error",
                what="It is [red]broken\x1b[0m.",
                where=f"tone\r{number}",
                remedy="Mend it.",
            )
            for number in range(told.get("bad", 0))
        ]
        space = Space(
            folder=Path(told.get("folder", ".")), size_bytes=told.get("room", 0), purpose="decoded tones"
        )
        return Inspection(findings=(*odd, *bad), space=(space,), summary="some tones")


class Loaded(TwoTowers):
    """A model that names a file as its weights; the hash it should have is `sha256`."""

    def __init__(self, *, file: str, sha256: str) -> None:
        super().__init__()
        self.weights_files = (Path(file),)
        self.weights_sha256 = {Path(file): sha256}


class Fetching(TwoTowers):
    """A model that, with `pretrained`, notes in the file `fetched` that it fetches its weights."""

    def __init__(self, *, fetched: str, pretrained: bool | str = True, width: int = 8) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width is {width}; it is at least 1.")
        if pretrained:
            Path(fetched).touch()
