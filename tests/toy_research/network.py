"""A network: two towers with batch norm and dropout, one scale that no child module holds."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

HIDDEN = 8


class EvenLinear(nn.Linear):
    """A linear layer whose finished gradient is divided by its largest element; it notes what it saw."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.seen: list[Tensor] = []

    def before_optimizer_step(self) -> None:
        gradient = self.weight.grad
        assert gradient is not None
        self.seen.append(gradient.clone())
        gradient /= gradient.abs().max() + 1e-8


class TwoTowers(nn.Module):
    """Scores a signal against one learned prototype a class."""

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
        """One embedding a class."""
        return self.right(self.classes)  # type: ignore[no-any-return]

    def forward(self, signal: Tensor, prototypes: Tensor | None = None) -> Tensor:
        """Scores, `[B, K]`."""
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
