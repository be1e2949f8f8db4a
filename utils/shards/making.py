"""Writing of a data set as shards: plans the shards, writes them in several processes, and can resume."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader, Dataset

from ignite_trainer.api.self_description import record, results_name
from ignite_trainer.support.progress import Progress
from model.storage.atomic import whole_file
from utils.shards.decoding import suffixes
from utils.shards.manifest import FILE_NAME, TAR_BLOCK, Manifest, SetEntry, Summary
from utils.shards.writing import Audio, Job, Written, encode, write_shard

T = TypeVar("T")
R = TypeVar("R")

_PARTS = ".unfinished"
_SAMPLED = 32  # number of samples to encode for an estimate of their size


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of making a set.

    Attributes:
        samples: maximum number of samples in a shard.
        size_bytes: approximate maximum size of a shard.
        audio: encoding of sounds (see `utils.shards.writing`).
        seed: seed of the sample order; None for the data set's own order.
        skip: whether to skip unreadable samples.
        processes: number of processes, each of which writes one shard at a time.
    """

    samples: int = 1000
    size_bytes: int = 100_000_000
    audio: Audio = "keep"
    seed: int | None = 0
    skip: bool = False
    processes: int = 1


def make(
    splits: Mapping[str | None, Any], folder: Path, options: Options, *, made_from: Mapping[str, Any]
) -> tuple[Manifest, dict[str, str]]:
    """Write a data set as shards, or only the shards that are missing.

    Each fold, or otherwise each split, gets its own shards, with equal numbers of samples. The samples are in
    random order, so that samples read together come from all classes.

    Args:
        splits: data set, or both of its splits by name.
        folder: folder to write to; shards already finished by the same call are kept.
        options: options of the set.
        made_from: description of the data set, as JSON types.

    Returns:
        The manifest, which is also written to the folder; and the skipped samples, with the reason.

    Raises:
        ValueError: The folder contains other files, or a sample cannot be read.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        jobs = plan(splits, options)
        # The number of processes does not affect the shards.
        about = {**made_from, "options": {k: v for k, v in asdict(options).items() if k != "processes"}}
        _begin(folder, jobs, about)
        _write_missing(splits, folder, jobs, options)
        written = [note for job in jobs if (note := _read_note(folder, job))]
        assert len(written) == len(jobs), "each job leaves a note"
        manifest = _manifest(splits, [note.summary for note in written if note.summary], about)
        manifest.write(folder / FILE_NAME)
        shutil.rmtree(folder / _PARTS)
    return manifest, {name: why for note in written for name, why in note.left_out.items()}


def plan(splits: Mapping[str | None, Any], options: Options) -> list[Job]:
    """Assign samples to shards."""
    jobs = []
    for number, (group, (source, indices)) in enumerate(_groups(splits).items()):
        order = indices
        if options.seed is not None:
            order = np.random.default_rng([options.seed, number]).permutation(indices).tolist()
        mean = _mean_bytes(splits[source], order, options.audio)
        count = math.ceil(max(len(order) / options.samples, len(order) * mean / options.size_bytes))
        fold, split = (group, None) if isinstance(group, int) else (None, group)
        name = "" if group is None else f"fold-{group}-" if fold is not None else f"{group}-"
        for shard, part in enumerate(np.array_split(np.array(order), min(count, len(order)))):
            file = f"{name}{shard:06d}.tar"
            jobs.append(Job(file=file, source=source, indices=part.tolist(), fold=fold, split=split))
    return jobs


def in_processes(
    call: Callable[[T], R],
    items: Sequence[T],
    *,
    processes: int,
    title: str,
    unit: str = "shards",
    size: Callable[[T], int] = lambda _: 1,
) -> Iterator[R]:
    """Yield `call(item)` for every item, in order, and show a progress bar.

    Args:
        call: picklable function; its OSErrors and ValueErrors are re-raised here.
        items: arguments of the calls.
        processes: maximum number of processes; 1 for the current process.
        title: title of the progress bar.
        unit: unit of the progress.
        size: function that returns an item's contribution to the progress.
    """
    workers = min(processes, len(items)) if processes > 1 else 0
    # torch's loader sends `call` to each process once, and ends the processes when this one ends.
    loader = DataLoader(_Calls(call, items), batch_size=None, num_workers=workers, collate_fn=_identity)
    with Progress(desc=title, total=sum(map(size, items)), unit=unit) as bar:
        for item, result in zip(items, loader, strict=True):
            if isinstance(result, Exception):
                raise result
            yield result
            bar.update(size(item))


@dataclass(frozen=True)
class _Calls(Dataset[Any]):
    """The results of calls, or their exceptions, which would otherwise arrive from a process as text."""

    call: Callable[[Any], Any]
    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        try:
            return self.call(self.items[number])
        except (OSError, ValueError) as error:
            return error


def _identity(result: Any) -> Any:
    return result


def _groups(splits: Mapping[str | None, Any]) -> dict[int | str | None, tuple[str | None, list[int]]]:
    """Group the samples, with their data sets, by fold if every sample has a fold, and otherwise by split."""
    by_fold: dict[Any, tuple[str | None, list[int]]] = {}
    for split, dataset in splits.items():
        for index in range(len(dataset)):
            fold = record(dataset, index).get("fold")
            if type(fold) is not int or by_fold.setdefault(fold, (split, []))[0] != split:
                return {split: (split, list(range(len(dataset)))) for split, dataset in splits.items()}
            by_fold[fold][1].append(index)
    return dict(sorted(by_fold.items()))


def _mean_bytes(dataset: Any, indices: Sequence[int], audio: Audio) -> float:
    """Estimate a sample's size in a shard, including headers, from the first readable samples."""
    sizes = list[int]()
    for index in indices[: 4 * _SAMPLED]:
        try:
            content = encode(dataset, index, audio=audio)
        except (OSError, ValueError):
            continue
        sizes.append(sum(TAR_BLOCK * (1 + -(-len(content[name]) // TAR_BLOCK)) for name in suffixes(content)))
        if len(sizes) == _SAMPLED:
            break
    return float(np.mean(sizes)) if sizes else 1.0


def _begin(folder: Path, jobs: Sequence[Job], about: Mapping[str, Any]) -> None:
    """Note the plan in the folder; raise if the folder contains shards of another plan."""
    content = [[job.file, job.source, list(job.indices)] for job in jobs]
    key = hashlib.sha256(json.dumps([content, about], default=str).encode()).hexdigest()
    noted = folder / _PARTS / "plan"
    if (folder / FILE_NAME).exists():
        raise ValueError(f"{folder} already has a set of shards with a manifest. Name another folder.")
    if noted.exists() and noted.read_text() != key:
        raise ValueError(
            f"{folder} has the beginning of another set of shards. Name another folder, or remove this one."
        )
    if not noted.exists() and any(folder.glob("*.tar")):
        raise ValueError(f"{folder} has tar files that this command did not begin. Name another folder.")
    noted.parent.mkdir(exist_ok=True)
    with whole_file(noted) as file:
        file.write(key.encode())
    _remove_partial_files(folder)


def _write_missing(
    splits: Mapping[str | None, Any], folder: Path, jobs: Sequence[Job], options: Options
) -> None:
    missing = [job for job in jobs if _read_note(folder, job) is None]
    for dataset in splits.values():
        prepare = getattr(dataset, "prepare", None)
        decodes = options.audio != "keep" or not hasattr(dataset, "files") or dataset.files(0) is None
        if callable(prepare) and missing and decodes:
            prepare()  # once instead of in every process
    write = _Write(splits, folder, options)
    try:
        for _ in in_processes(
            write,
            missing,
            processes=options.processes,
            title="Writing shards",
            unit="samples",
            size=lambda job: len(job.indices),
        ):
            pass
    finally:
        _remove_partial_files(folder)


@dataclass(frozen=True)
class _Write:
    """Writes one shard and notes that it is finished."""

    splits: Mapping[str | None, Any]
    folder: Path
    options: Options

    def __call__(self, job: Job) -> None:
        dataset, options = self.splits[job.source], self.options
        written = write_shard(self.folder, job, dataset, audio=options.audio, skip=options.skip)
        with whole_file(_note(self.folder, job)) as file:
            file.write(written.model_dump_json(by_alias=True).encode())


def _note(folder: Path, job: Job) -> Path:
    return folder / _PARTS / f"{job.file}.json"


def _read_note(folder: Path, job: Job) -> Written | None:
    """Read the note of a finished shard; None if the note is unusable or the shard is missing."""
    try:
        written = Written.model_validate_json(_note(folder, job).read_bytes())
        entry = written.summary.entry if written.summary else None
        whole = entry is None or (folder / entry.file).stat().st_size == entry.size_bytes
        return written if whole else None
    except (OSError, ValueError):
        return None


def _manifest(
    splits: Mapping[str | None, Any], shards: Sequence[Summary], made_from: Mapping[str, Any]
) -> Manifest:
    if not shards:
        raise ValueError("No sample could be read, so there is no shard.")
    names = [name for dataset in splits.values() for name in getattr(dataset, "class_names", None) or ()]
    name = " and ".join(dict.fromkeys(map(results_name, splits.values())))
    about = SetEntry.of(shards, name=name, class_names=names, made_from=dict(made_from))
    return Manifest(about=about, shards=tuple(shard.entry for shard in shards))


def _remove_partial_files(folder: Path) -> None:
    """Remove the unfinished files of killed processes."""
    for left in folder.glob("*.tar*.part"):
        left.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Prevent other processes from writing to a folder."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"Another process is writing to {folder}. Wait for it, or end it.") from None
