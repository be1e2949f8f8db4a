"""A network of two towers with batch norm and dropout, and a scale that no child module holds."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

HIDDEN = 8


class EvenLinear(nn.Linear):
    """A linear layer that divides its final gradient by the largest element and remembers the original."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.seen: list[Tensor] = []

    def before_optimizer_step(self) -> None:
        gradient = self.weight.grad
        assert gradient is not None
        self.seen.append(gradient.clone())
        gradient /= gradient.abs().max() + 1e-8


class TwoTowers(nn.Module):
    """Scores a signal against one learned prototype per class."""

    def __init__(
        self,
        *,
        length: int = 16,
        classes: int = 3,
        dropout: float = 0.2,
        norm: bool = True,
        even: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.calls: Tensor
        self.scale = nn.Parameter(torch.zeros(()))
        self.left = _tower((EvenLinear if even else nn.Linear)(length, HIDDEN), dropout=dropout, norm=norm)
        self.right = _tower(nn.Linear(classes, HIDDEN), dropout=dropout, norm=norm)
        self.register_buffer("classes", torch.eye(classes))
        self.classes: Tensor

    def prototypes(self) -> Tensor:
        """Return one embedding per class."""
        return self.right(self.classes)  # type: ignore[no-any-return]

    def forward(self, signal: Tensor, prototypes: Tensor | None = None) -> Tensor:
        """Return scores `[B, K]`."""
        embeddings = self.left(signal.flatten(1))
        prototypes = self.prototypes() if prototypes is None else prototypes
        return self.scale.exp() * embeddings @ prototypes.T  # type: ignore[no-any-return]


def _tower(first: nn.Linear, *, dropout: float, norm: bool) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            linear=first,
            norm=nn.BatchNorm1d(HIDDEN) if norm else nn.Identity(),
            nonlinearity=nn.Tanh(),
            dropout=nn.Dropout(dropout),
        )
    )


class Layered(TwoTowers):
    """Towers that declare the order of their layers."""

    def layer_order(self) -> list[list[list[str]]]:
        return [[["left.linear"], ["left.norm"]], [["right.linear"], ["right.norm"]], [["scale"]]]


class Loaded(TwoTowers):
    """A model that names a file of weights, which should have this sha256."""

    def __init__(self, *, file: str, sha256: str) -> None:
        super().__init__()
        self.weights_files = (Path(file),)
        self.weights_sha256 = {Path(file): sha256}


class Peer(TwoTowers):
    """A model with published weights, which names them and knows of their training data."""

    def __init__(self, *, file: str) -> None:
        super().__init__()
        self.weights_files = (Path(file),)
        self.weights_names = {Path(file): "owner/peer"}

    def seen_in_training(self, dataset: str) -> str:
        return f"owner/peer: half of {dataset} is training data."


class Fetching(TwoTowers):
    """A model that, with `pretrained`, creates the file `fetched` when it fetches its weights."""

    def __init__(self, *, fetched: str, pretrained: bool | str = True, width: int = 8) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width is {width}; it is at least 1.")
        if pretrained:
            Path(fetched).touch()
