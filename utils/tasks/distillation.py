"""Distillation: a model also learns from the embeddings of another, frozen model, its teacher."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from model.audioclip import AudioCLIP
from model.embedding import embed_text
from model.interfaces import AudioTextModel
from model.losses import Reduction, combined
from model.parts import Similarity, sum_of_blocks

Form = Literal["similarities", "embeddings"]
Teacher: TypeAlias = str | Callable[[], nn.Module]
"""Source for `AudioCLIP.from_pretrained`, or a function that builds a model of another class."""

TEACHER = "teacher "
"""Prefix of the names of a teacher's embeddings."""

_KINDS = (
    'the source of an AudioCLIP, such as "AudioCLIP-Full-Training" or a folder of runs, or '
    '{"class": "model.clap.Clap", "args": {...}}'
)


class Distillation:
    """A frozen teacher, and the loss that makes a model, the student, embed as the teacher does.

    Args:
        teacher: teacher; loaded by `prepare`.
        weights: weight of each form of the loss, see `similarity_loss` and `embedding_loss`; None for
            {"similarities": 1.0}.

    Attributes:
        images: whether the teacher embeds images that are preprocessed for the student.

    Raises:
        ValueError: An argument cannot be used.
    """

    def __init__(self, teacher: Teacher, weights: Mapping[Form, float] | None = None) -> None:
        given: object = teacher  # from JSON
        if not isinstance(given, str) and not callable(given):
            raise ValueError(f"teacher is {teacher!r}; it must be {_KINDS}.")
        self._source = teacher
        self._weights: dict[Form, float] = {"similarities": 1.0} if weights is None else dict(weights)
        allowed = ", ".join(f'"{form}"' for form in get_args(Form))
        if not self._weights or not self._weights.keys() <= set(get_args(Form)):
            raise ValueError(f"distillation is {weights}; it must give weights to one or both of {allowed}.")
        for form, weight in self._weights.items():
            if type(weight) not in (int, float) or not 0 < weight < math.inf:
                raise ValueError(f'distillation gives "{form}" the weight {weight}; it must be positive.')
        self._teacher: AudioTextModel | None = None
        self.images = False

    @property
    def teacher(self) -> AudioTextModel:
        """The teacher."""
        assert self._teacher is not None, "prepare loads the teacher"
        return self._teacher

    def prepare(self, student: AudioTextModel) -> nn.Module:
        """Load the teacher onto the student's device, in eval mode, and return it.

        Raises:
            ValueError: The teacher cannot be loaded, is no model of audio and texts, or embeds in another
                number of dimensions although its embeddings are compared directly.
        """
        try:
            made = (
                AudioCLIP.from_pretrained(self._source) if isinstance(self._source, str) else self._source()
            )
        except ValueError as error:
            raise ValueError(f"Task.args.teacher: {error}") from error
        if not isinstance(made, AudioTextModel):
            raise ValueError(
                f"Task.args.teacher is a {type(made).__name__}; it must be {_KINDS}. Another model needs the "
                "methods and attributes of model.interfaces.AudioTextModel."
            )
        made.to(student.device).eval().requires_grad_(False)
        self._teacher = made
        preprocessing = [getattr(each, "image_preprocessing", None) for each in (made, student)]
        self.images = preprocessing[0] is not None and preprocessing[0] == preprocessing[1]
        if "embeddings" not in self._weights:
            return made
        sizes = [embed_text(each, "sound").shape[1] for each in (made, student)]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"Task.args.distillation compares embeddings, but the teacher's have {sizes[0]} dimensions, "
                f'and the model\'s {sizes[1]}. Use {{"similarities": 1.0}}, which compares any two models.'
            )
        return made

    def targets(self, embed: Callable[[AudioTextModel], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Embed a batch with the teacher.

        Args:
            embed: function that embeds a batch with a model: normalised embeddings by modality.

        Returns:
            The embeddings without gradients, with names such as "teacher audio".
        """
        with record_function("step/teacher/"), torch.no_grad():
            return {f"{TEACHER}{name}": values for name, values in embed(self.teacher).items()}

    def part(
        self,
        embeddings: Mapping[str, Tensor],
        own: Mapping[str, slice],
        pairs: Sequence[TaughtPair],
        reduction: Reduction,
        *,
        block: int | None = None,
    ) -> Tensor | float:
        """Compute some samples' part of the weighted sum of the forms of the loss.

        Args:
            embeddings: normalised embeddings `[n, D]` of student and teacher, by name.
            own: rows of these samples, by name of the student's embeddings.
            pairs: pairs of modalities that the teacher embeds, too.
            reduction: combination of the pairs' losses.
            block: number of samples to compare at a time, see `model.parts.sum_of_blocks`.
        """
        total: Tensor | float = 0.0
        if "similarities" in self._weights and pairs:
            losses = [
                sum_of_blocks(functools.partial(similarity_loss, *pair[:3]), pair.own, block)
                for pair in pairs
            ]
            total = total + self._weights["similarities"] * combined(losses, reduction)
        if "embeddings" in self._weights:
            for name, rows in own.items():
                if name in embeddings and f"{TEACHER}{name}" in embeddings:
                    total = total + self._weights["embeddings"] * embedding_loss(
                        embeddings[name], embeddings[f"{TEACHER}{name}"], rows
                    )
        return total


class TaughtPair(NamedTuple):
    """A pair of modalities in a batch of B samples.

    Attributes:
        student: function that computes the student's scaled similarities.
        teacher: function that computes those of the teacher.
        batch: number of samples, B.
        own: samples whose part of the loss is wanted.
    """

    student: Similarity
    teacher: Similarity
    batch: int
    own: slice


def similarity_loss(student: Similarity, teacher: Similarity, batch: int, own: slice) -> Tensor:
    """Compare the similarities within a batch, as each model scales them: KL(teacher || student).

    The divergence between the softmax of the teacher's and of the student's similarities, along rows plus
    along columns, each a mean. The models may embed in different numbers of dimensions. Sources: affinity
    mimicking, TinyCLIP (arXiv 2309.12314); "CRD" in CLIP-KD (arXiv 2307.12732).

    Args:
        student: function that computes scaled similarities, with gradients.
        teacher: function that computes those of the teacher.
        batch: number of samples, B.
        own: samples whose part of the loss is wanted.
    """
    every = slice(0, batch)
    total = []
    for dim, rows, columns in ((1, own, every), (0, every, own)):
        wanted, given = (of(rows, columns).log_softmax(dim=dim) for of in (teacher, student))
        total.append((wanted.exp() * (wanted - given)).sum() / batch)
    return total[0] + total[1]


def embedding_loss(student: Tensor, teacher: Tensor, own: slice) -> Tensor:
    """Compare embeddings: the part of some samples in the mean of 1 - cosine.

    "FD" in CLIP-KD (arXiv 2307.12732): its squared distance, averaged over D dimensions, is 2 / D of this.

    Args:
        student: normalised embeddings `[n, D]`, with gradients.
        teacher: those of the teacher, of the same shape.
        own: rows of these samples.
    """
    return (1.0 - (student[own] * teacher[own]).sum(dim=1)).sum() / len(student)
