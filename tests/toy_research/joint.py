"""Functions that tests call in several processes, and in one for comparison."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from ignite.engine import Events
from torch import Tensor, nn
from torch.utils.data import Dataset

from ignite_trainer.api.task import Task
from ignite_trainer.data.loader import FieldTransform
from ignite_trainer.protocol.sections import Faults, ParameterRule
from ignite_trainer.reporters import Together
from ignite_trainer.runs.faults import FaultPolicy
from ignite_trainer.support import distributed
from ignite_trainer.training import forward
from ignite_trainer.training.batch_norm import synchronise_batch_norms
from ignite_trainer.training.engines import make_trainer
from ignite_trainer.training.lone_samples import LoneSamples
from ignite_trainer.training.parameters import apply_rules
from tests.ignite_trainer.data.loading import loader
from tests.ignite_trainer.training.stepping import CPU, setup
from toy_research.augment import Fit, Hiss
from toy_research.learning import Matching, Pairing
from toy_research.lonely import Scenes as LonelyScenes
from toy_research.lonely import Scoring, SoundAndPicture, batch_of
from toy_research.network import TwoTowers
from toy_research.signals import Tone, Tones

if TYPE_CHECKING:
    from model.audioclip import AudioCLIP

STEPS = 5
MASKS = {"time": 1, "max_time": 0.3, "frequency": 1, "max_frequency": 0.3}


class Reached(NamedTuple):
    """Results of some training steps."""

    losses: list[float]
    gradients: dict[str, Tensor]
    weights: dict[str, Tensor]


class ExactTones(Tones):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(samples=66)
        self._dtype = dtype

    def __getitem__(self, position: int) -> Tone:
        tone = super().__getitem__(position)
        return tone._replace(signal=torch.from_numpy(tone.signal).to(self._dtype))


def train_toy(kind: str, dtype: torch.dtype, batch: int, chunk: int | None = None) -> Reached:
    """Train the toy network, with batch norm unless batches are embedded in chunks."""
    torch.manual_seed(0)
    model = TwoTowers(dropout=0.0, even=True, norm=chunk is None).to(dtype)
    transforms = [FieldTransform(apply=Hiss(level=0.1)), FieldTransform(apply=Fit(length=16))]
    task: Task = {"matching": Matching, "pairing": Pairing}[kind]()
    return train(model, task, ExactTones(dtype), transforms, batch=batch, chunk=chunk)


def train_audioclip(
    dtype: torch.dtype,
    batch: int,
    *,
    chunk: int | None = None,
    norms: str = "train",
    spectrum: str = "stft",
    steps: int = STEPS,
    size: int = 32,
) -> Reached:
    """Train the audio and text towers of a small AudioCLIP, with batch norms in a given mode.

    Two correct implementations diverge after a few steps with learned wavelets, whose gradients are
    ill-conditioned, and with batch norms in train mode if the last of them sees few values.
    """
    from utils.tasks import AudioTextContrastive

    model = small_audioclip(dtype, spectrum=spectrum, size=size)
    rules = [ParameterRule(match=r"visual\..*", train=False)]
    if norms == "eval":
        rules.append(STANDING_NORMS)
    task = AudioTextContrastive(positives="same_label", spectrogram_masks=MASKS)
    return train(
        model, task, Noises(dtype), [], batch=batch, chunk=chunk, rules=rules, rate=1e-5, steps=steps
    )


STANDING_NORMS = ParameterRule(
    match=r"audio\.(bn1|layer.*bn.*|layer.*downsample\.1.*|att.*bn).*", mode="eval"
)


def small_audioclip(
    dtype: torch.dtype, *, spectrum: str, size: int, seed: int = 0, logit_bias: float | None = None
) -> AudioCLIP:
    """Build a small AudioCLIP, the same in every process."""
    from model.audioclip import AudioCLIP
    from tests.small_backbone import SMALL_AUDIOCLIP, small_backbone

    torch.manual_seed(seed)
    arguments = {**SMALL_AUDIOCLIP, "image_resolution": 32, "context_length": 12, "spectrum": spectrum}
    arguments |= {"spec_height": size, "spec_width": size, "pretrained": False, "logit_bias": logit_bias}
    with small_backbone():  # fixtures have no effect in other processes
        model = AudioCLIP(**arguments).to(dtype)
    with torch.no_grad():
        if model.audio.fbsp is not None:
            model.audio.fbsp.m.add_(0.1)  # where m is 0, gradients are ill-conditioned
        for scale in (model.logit_scale, model.logit_scale_ai, model.logit_scale_at):
            scale.fill_(1.0)  # at the usual scale of 100 a step of 5 clips is chaotic
    return model


def train_three_modalities(
    dtype: torch.dtype, batch: int, *, chunk: int | None = None, taught: bool = False
) -> Reached:
    """Train all three towers of a small AudioCLIP on scenes, many of which lack a sound or an image."""
    from utils.tasks import Contrastive

    model = small_audioclip(dtype, spectrum="stft", size=32)
    rules = [STANDING_NORMS, ParameterRule(match=r"visual\..*", mode="eval")]
    task, scenes = Contrastive(spectrogram_masks=MASKS), Scenes(dtype)
    if taught:
        teacher = functools.partial(small_audioclip, dtype, spectrum="stft", size=32, seed=1)
        weights: Any = {"similarities": 2.0, "embeddings": 1.0}
        task = Contrastive(spectrogram_masks=MASKS, teacher=teacher, distillation=weights)
        task.prepare(model, train=scenes, test=scenes)
    return train(model, task, scenes, [], batch=batch, chunk=chunk, rules=rules, rate=1e-5)


class Scenes(Dataset[Any]):
    """`MadeScenes` with a given dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        from utils.datasets import MadeScenes

        self._scenes = MadeScenes(scenes=30, incomplete=0.5, seconds=0.1, image_size=32)
        self._dtype = dtype

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Any:
        scene = self._scenes[index]
        audio, image = (
            None if given is None else torch.as_tensor(given).to(self._dtype)
            for given in (scene.audio, scene.image)
        )
        return scene._replace(audio=audio, image=None if image is None else image / 255)


class Noises(Dataset[Any]):
    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        from utils.datasets import Sample

        generator = torch.Generator().manual_seed(index)
        audio = (3000.0 * torch.randn(1, 3000, generator=generator)).to(self._dtype)
        return Sample(audio, None, [["dog"], ["rain", "wind"], ["siren"]][index % 3])


def train(
    model: nn.Module,
    task: Task,
    dataset: Any,
    transforms: list[FieldTransform],
    *,
    batch: int,
    chunk: int | None,
    rules: list[ParameterRule] | None = None,
    rate: float = 0.05,
    steps: int = STEPS,
) -> Reached:
    """Train for some steps in all processes; `batch` is the total batch size."""
    settings = setup(batch_train=batch, batch_of="all", chunk=chunk, log_interval=1)
    if distributed.world_size() > 1:
        synchronise_batch_norms(model)
        with torch.no_grad():  # whatever weights each process started with
            for parameter in model.parameters():
                parameter.add_(distributed.rank())
        distributed.broadcast_state(model)
    plan = apply_rules(model, [*(rules or []), ParameterRule(match=".*")])
    optimizer = torch.optim.SGD(plan.groups, lr=rate, momentum=0.9)
    batches = loader(dataset, *transforms, batch_size=batch, drop_last=True, seed=3)
    trainer = make_trainer(task, model, optimizer, plan, settings, device=CPU, progress=False)
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}

    def note(*_: object) -> None:
        if not gradients:
            gradients.update(
                {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            )

    optimizer.register_step_pre_hook(note)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: batches.set_epoch(trainer.state.epoch))
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda: losses.append(float(trainer.state.output.loss)),  # type: ignore[union-attr]
    )
    trainer.run(batches, max_epochs=steps, epoch_length=1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return Reached(losses, gradients, weights)


HALVES = [((0, 1, 6, 2), (1, 2, 3, 4)), ((0, 1, 2, 3), (6, 7, 8, 9)), ((0, 1, 2, 3), (1, 2, 3, 4))]
"""Scenes of two processes in three steps. Those of a multiple of 6 have sounds."""


def take_lonely_steps() -> dict[str, Any]:
    """Train on `HALVES`: sounds in one process, one sound in each, one in all."""
    torch.manual_seed(0)
    model = SoundAndPicture().double().train()
    if distributed.world_size() > 1:
        synchronise_batch_norms(model)
    faults = FaultPolicy(Faults(), LonelyScenes(), folder=Path(), reporters=Together([]))
    lone_samples = LoneSamples(
        Scoring(),
        model,
        setup(batch_train=8, batch_of="all"),
        record_dropped=faults.record_dropped_fields,
        record_unsynchronised=faults.record_unsynchronised_step,
    )
    losses, gradients = [], []
    for step, halves in enumerate(HALVES):
        own = halves[0] + halves[1] if distributed.world_size() == 1 else halves[distributed.rank()]
        joint = lone_samples.take(
            batch_of(*own, dtype="float64"),
            functools.partial(forward.training_step, Scoring(), model),
            epoch=1,
            iteration=step + 1,
        )
        assert joint.output is not None and joint.output.loss is not None
        joint.output.loss.backward()
        distributed.average_gradients(model.parameters())
        losses.append(float(joint.output.loss.detach()))
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
        model.zero_grad()
    faults.share_counts()
    return {"losses": losses, "gradients": gradients, "counts": dict(faults.counts)}


def communicate() -> dict[str, Any]:
    """Return the messages between processes."""
    rank = distributed.rank()
    found: dict[str, Any] = {
        "all": distributed.all_gather(f"rank {rank}"),
        "main": distributed.run_on_main(lambda: f"rank {rank}"),
        "any": distributed.any_process(rank == 1, False),
        "ranks": (rank, distributed.world_size(), distributed.is_main()),
    }
    for name, call in {
        "main fails": lambda: distributed.run_on_main(_fail),
        "one fails": lambda: distributed.all_or_none(_fail if rank else lambda: "made"),
    }.items():
        try:
            call()
        except ValueError as error:
            found[name] = str(error)
    rows = torch.arange(6.0, requires_grad=True)[: 2 + rank].reshape(-1, 1)
    leaf = rows.detach().requires_grad_()
    gathered = distributed.gather_rows(leaf, [2, 3])
    (gathered.square().sum() * 0.5).backward()
    found["gathered"], found["row gradient"] = gathered.detach(), leaf.grad
    ours = nn.Parameter(torch.ones(2))
    alone = nn.Parameter(torch.ones(3))
    unused = nn.Parameter(torch.ones(1))
    ours.grad = torch.full((2,), float(rank))
    if rank:
        alone.grad = torch.ones(3)
    distributed.average_gradients([ours, alone, unused])
    found["averaged"] = (ours.grad, alone.grad, unused.grad)
    found["sum"] = distributed.sum_over_all(torch.tensor(1.0 + rank))
    shared = nn.BatchNorm1d(2)
    shared.get_buffer("running_mean").fill_(rank)
    distributed.broadcast_state(shared)
    found["shared"] = shared.get_buffer("running_mean")
    return found


@contextlib.contextmanager
def group_of_cuda_alone() -> Iterator[None]:
    """Make the default group refuse CPU tensors, as NCCL does."""
    world = dist.group.WORLD
    dist.distributed_c10d._update_default_pg(dist.new_group(backend="cuda:gloo"))
    yield
    dist.distributed_c10d._update_default_pg(world)
    distributed._CONTROL.clear()


def _fail() -> str:
    raise ValueError(f"of rank {distributed.rank()}")


def all_of_it() -> dict[str, Any]:
    """Return everything that the fast tests compare, in one start of the processes."""
    found = {"communicated": communicate(), "first": distributed.is_first_to_report()}
    with group_of_cuda_alone():
        found["communicated beside nccl"] = communicate()
    return {
        **found,
        "lonely": take_lonely_steps(),
        **{str(case): train_toy(*case) for case in TOYS},
        **{name: train_audioclip(torch.float64, 5, **options) for name, options in AUDIOCLIPS.items()},
        **{
            f"three {chunk} {taught}": train_three_modalities(torch.float64, 7, chunk=chunk, taught=taught)
            for chunk in PARTS
            for taught in (False, True)
        },
    }


TOYS: list[tuple[str, torch.dtype, int, int | None]] = [
    ("matching", torch.float64, 8, None),
    ("matching", torch.float64, 9, None),
    ("matching", torch.float32, 9, None),
    ("pairing", torch.float64, 9, None),
    ("pairing", torch.float32, 9, None),
    ("pairing", torch.float64, 9, 2),
]
AUDIOCLIPS: dict[str, dict[str, Any]] = {
    "a step": {"spectrum": "fbsp", "steps": 1},
    "steps": {"norms": "eval"},
    "steps in parts": {"norms": "eval", "chunk": 2},
}
PARTS = (None, 2)
