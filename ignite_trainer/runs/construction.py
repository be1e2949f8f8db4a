"""Builds the parts of a run that do not need the model: data sets, transforms, task, evaluations, loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from ignite_trainer.api.batch import BatchTransform, MixingTransform
from ignite_trainer.api.evaluation import Evaluation
from ignite_trainer.api.reporter import SPLIT_NAMES, Split
from ignite_trainer.api.self_description import hold_nothing_out, to_hold_out
from ignite_trainer.api.task import Task
from ignite_trainer.data.loader import FieldTransform, SplitLoader
from ignite_trainer.data.samples import UnreadableSamples
from ignite_trainer.data.sampling import BalancedSampling
from ignite_trainer.data.transfer import batches_of
from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.reporters.ignite_loggers import require_loggers
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.errors import ProtocolError

_BUILT_SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


class Built(NamedTuple):
    """Data sets by split, transforms by split, task, evaluations by name, and sampling of the training split.

    `sampling` is None if an epoch takes each sample once.
    """

    datasets: dict[Split, Any]
    transforms: dict[Literal["train", "test"], list[FieldTransform]]
    task: Task
    evaluations: dict[str, Evaluation]
    sampling: BalancedSampling | None


class Loaders(NamedTuple):
    """Loaders of a run.

    Attributes:
        training: loader of the training split, shuffled and augmented.
        evaluation: unshuffled loader of each split, with the held-out split's transforms; the held-out split
            comes last.
    """

    training: SplitLoader
    evaluation: dict[Split, SplitLoader]


def try_out(blueprint: Blueprint) -> dict[Split, int]:
    """Try out everything that is quick to build, and discard it.

    Returns:
        The number of samples in each split.

    Raises:
        ProtocolError: Lists everything that cannot be built, with JSON paths.
    """
    built, _ = _try_all(lambda: build_quickly(blueprint), lambda: require_loggers(blueprint.reporters))
    return {split: len(dataset) for split, dataset in built.datasets.items()}


def build_quickly(blueprint: Blueprint) -> Built:
    """Build the parts that are quick to build; a ProtocolError lists the problems in all of them."""
    (datasets, sampling), transforms, task, evaluations = _try_all(
        lambda: _build_datasets(blueprint),
        lambda: build_transforms(blueprint),
        lambda: build(blueprint.task, blueprint.task_args, where="Task"),
        lambda: _build_evaluations(blueprint),
    )
    return Built(datasets, transforms, task, evaluations, sampling)


def _build_dataset(blueprint: Blueprint, split: Literal["train", "test"]) -> Any:
    """Build the data set of one split; raise a ProtocolError if it has no samples."""
    choice = blueprint.split.yes if split == "train" else blueprint.split.no
    args = {**blueprint.dataset_args, blueprint.split.key: choice}
    dataset = build(blueprint.dataset, args, where="Dataset")
    if not isinstance(dataset, Sized):
        raise ProtocolError(
            f"Dataset.class is {blueprint.protocol.dataset.path}, which has no length; define __len__."
        )
    if not len(dataset):
        raise ProtocolError(f"Dataset.args leave no samples in the {SPLIT_NAMES[split]} split.")
    return dataset


def build_datasets(blueprint: Blueprint) -> dict[Split, Any]:
    """Build the data sets of all splits; the validation split is part of the training data set.

    If the protocol gives both splits the same arguments, both are the same object.
    """
    train = _build_dataset(blueprint, "train")
    test = train if blueprint.split.yes == blueprint.split.no else _build_dataset(blueprint, "test")
    validation = getattr(train, "validation", None)
    if validation is None:
        return {"train": train, "test": test}
    if not len(validation):
        raise ProtocolError("Dataset.args leave no samples in the validation split.")
    return {"train": train, "validation": validation, "test": test}


def build_transforms(blueprint: Blueprint) -> dict[Literal["train", "test"], list[FieldTransform]]:
    """Build the transforms for training and those for evaluation."""
    specs = blueprint.protocol.transforms
    places = [f"Transforms[{index}]" for index in range(len(specs))]
    made = _try_all(
        *(
            partial(build, make, spec.args, where=where)
            for make, spec, where in zip(blueprint.transforms, specs, places, strict=True)
        )
    )
    transforms: dict[Literal["train", "test"], list[FieldTransform]] = {
        split: [
            FieldTransform(apply=apply, field=spec.field, where=where)
            for apply, spec, where in zip(made, specs, places, strict=True)
            if getattr(spec, split)
        ]
        for split in _BUILT_SPLITS
    }
    _check_mixing(transforms)
    return transforms


def build_loaders(blueprint: Blueprint, built: Built, *, seed: int, device: torch.device) -> Loaders:
    """Build the loaders; raise a ProtocolError if the training split is smaller than a batch."""
    setup, faults, datasets = blueprint.protocol.setup, blueprint.protocol.faults, built.datasets
    require_a_batch(blueprint, len(datasets["train"]))
    require_even_parts(blueprint, built.transforms["train"])
    max_unreadable = faults.unreadable_at_most if faults.unreadable == "skip" else None
    # A split's two loaders share these.
    batches = {split: batches_of(dataset, device) for split, dataset in datasets.items()}
    unreadable = {
        split: UnreadableSamples(dataset, split=SPLIT_NAMES[split], max_share=max_unreadable)
        for split, dataset in datasets.items()
    }

    def load(split: Split, *, train: bool) -> SplitLoader:
        return SplitLoader(
            datasets[split],
            built.transforms["train" if train else "test"],
            batch_size=setup.batch_of_all(world_size(), train=train),
            workers=setup.workers_train if train else setup.workers_test,
            shuffle=train and blueprint.shuffle,
            drop_last=train,
            seed=seed,
            device=device,
            unequal_lengths=not train and built.task.takes_unequal_lengths,
            draws=train,
            batches=batches[split],
            unreadable=unreadable[split],
            sampling=built.sampling if train else None,
        )

    return Loaders(load("train", train=True), {split: load(split, train=False) for split in datasets})


def try_each(steps: Iterable[Callable[[], Any]]) -> tuple[list[Any], list[str]]:
    """Run all steps; return the results, and the problems of those that raise a ProtocolError."""
    results, problems = [], []
    for step in steps:
        try:
            results.append(step())
        except ProtocolError as error:
            problems += error.problems
    return results, problems


def require_a_batch(blueprint: Blueprint, samples: int) -> None:
    """Raise a ProtocolError if an epoch of a training split with `samples` samples has no complete batch."""
    setup = blueprint.protocol.setup
    samples = setup.samples_of_epoch(samples)
    batch = setup.batch_of_all(world_size(), train=True)
    if setup.epochs and samples < batch:
        largest = samples * setup.batch_train // batch
        total = f" ({batch} across {world_size()} processes)" if world_size() > 1 else ""
        remedy = f"Lower it to {largest} or less with -b." if largest else "Start fewer processes."
        has = f"Setup.samples_per_epoch is {samples}" if setup.samples_per_epoch else ""
        raise ProtocolError(
            f"Setup.batch_train is {setup.batch_train}{total}, but "
            f"{has or f'the training split has {samples} samples'}, fewer than one batch. {remedy}"
        )


def require_even_parts(blueprint: Blueprint, transforms: Sequence[FieldTransform]) -> None:
    """Raise a ProtocolError if a transform mixes pairs of samples that several processes would share."""
    setup, processes = blueprint.protocol.setup, world_size()
    batch = setup.batch_of_all(processes, train=True)
    if setup.epochs and processes > 1 and batch % (2 * processes):
        for transform in transforms:
            if isinstance(transform.apply, MixingTransform):
                raise ProtocolError(
                    f"{transform.where} mixes pairs of samples, but {processes} processes share batches of "
                    f"{batch}; each needs an even number of samples. Set the batch size with -b accordingly."
                )


def with_largest_batch(blueprint: Blueprint, samples: int) -> Blueprint | None:
    """Return a copy with the largest training batch that `samples` can fill; None if that is below 2."""
    setup = blueprint.protocol.setup
    samples = setup.samples_of_epoch(samples)
    largest = samples * setup.batch_train // setup.batch_of_all(world_size(), train=True)
    return blueprint.with_setup(batch_train=largest) if largest > 1 else None


def _check_mixing(transforms: Mapping[Literal["train", "test"], Sequence[FieldTransform]]) -> None:
    """Raise a ProtocolError if transforms that mix samples are in the wrong split or the wrong order."""
    problems = [
        f'{transform.where} mixes samples, which only training may do; add "test": false to it.'
        for transform in transforms["test"]
        if isinstance(transform.apply, MixingTransform)
    ]
    mixing: FieldTransform | None = None
    for transform in transforms["train"]:
        if isinstance(transform.apply, MixingTransform):
            if mixing:
                problems.append(f"{transform.where} and {mixing.where} both mix samples; remove one of them.")
            mixing = transform
        elif mixing and not isinstance(transform.apply, BatchTransform):
            problems.append(
                f"{mixing.where} mixes samples, so it must come after {transform.where}, which takes single "
                "samples."
            )
    if problems:
        raise ProtocolError(problems)


def _build_datasets(blueprint: Blueprint) -> tuple[dict[Split, Any], BalancedSampling | None]:
    datasets, setup = build_datasets(blueprint), blueprint.protocol.setup
    if setup.patience is not None and "validation" not in datasets:
        raise ProtocolError(
            f"Setup.patience is {setup.patience}, but the data set has no validation split, on which an "
            'improvement would show. Name one, such as --Dataset.args.validation_fold "next", or set '
            "Setup.patience to null."
        )
    if setup.epochs and hold_nothing_out(datasets["train"], datasets["test"]):
        raise ProtocolError(
            "Dataset.args hold nothing out: both splits are the whole data set, so the model would be "
            f"evaluated on its training data. Name {to_hold_out(datasets['test'])}, "
            "or set Setup.epochs to 0."
        )
    return datasets, _build_sampling(blueprint, datasets["train"])


def _build_sampling(blueprint: Blueprint, train: Any) -> BalancedSampling | None:
    setup = blueprint.protocol.setup
    if not setup.epochs or setup.sampling == "each":
        return None
    if not blueprint.shuffle:
        raise ProtocolError(
            f'Dataset.args.dl_shuffle is false, but Setup.sampling is "{setup.sampling}", which draws '
            'samples in random order; remove dl_shuffle, or set Setup.sampling to "each".'
        )
    return BalancedSampling(train, draws=setup.samples_per_epoch)


def _build_evaluations(blueprint: Blueprint) -> dict[str, Evaluation]:
    specs = blueprint.protocol.evaluations
    made = _try_all(
        *(
            partial(build, blueprint.evaluations[name], spec.args, where=f"Evaluations.{name}")
            for name, spec in specs.items()
        )
    )
    return dict(zip(specs, made, strict=True))


def _try_all(*steps: Callable[[], Any]) -> list[Any]:
    """Run all steps and return their results; raise a single ProtocolError that lists all problems."""
    results, problems = try_each(steps)
    if problems:
        raise ProtocolError(problems)
    return results
