"""A data set written as shards: planned, written by several processes, gone on with where it stopped."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ignite_trainer.api.self_description import record, results_name
from utils.shards.decoding import suffixes
from utils.shards.manifest import FILE_NAME, FORMAT, TAR_BLOCK, Manifest, SetEntry, ShardEntry, write_whole
from utils.shards.parallel import in_processes
from utils.shards.writing import Audio, Job, Written, encode, write_shard

_PARTS = ".unfinished"
_TRIED = 32  # samples encoded to see how large they are


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a set is made.

    Attributes:
        samples: in a shard, at most.
        size_bytes: of a shard, about, at most.
        audio: how sounds are kept.
        seed: of the order; None: that of the data set.
        skip: leave out what cannot be read.
        processes: that write, each a shard at a time.
    """

    samples: int = 1000
    size_bytes: int = 100_000_000
    audio: Audio = "keep"
    seed: int | None = 0
    skip: bool = False
    processes: int = 1

    def to_json(self) -> dict[str, Any]:
        """What decides the content of the shards."""
        names = ("samples", "size_bytes", "audio", "seed", "skip")
        return {name: getattr(self, name) for name in names}


def make(
    splits: Mapping[str | None, Any], folder: Path, options: Options, *, made_from: Mapping[str, Any]
) -> tuple[Manifest, dict[str, str]]:
    """Write a data set as shards, or what is missing of them.

    The samples of each fold, or else of each split, are in shards of their own, and in random order, so that
    those read together are of all kinds. Shards of one fold or split are equally long.

    Args:
        splits: the data set, or both of its splits by their names.
        folder: to write to; what was finished there by the same call is kept.
        options: how.
        made_from: what the data set is, as JSON types.

    Returns:
        The manifest, which is in the folder; and what was left out, with what was said of it.

    Raises:
        ValueError: the folder has something else, or a sample cannot be read.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        jobs = plan(splits, options)
        about = {**made_from, "options": options.to_json()}
        parts = _begin(folder, jobs, about)
        _write_missing(splits, folder, parts, jobs, options)
        done = [_read_part(folder, parts, job) for job in jobs]
        written = [one for one in done if one is not None]
        assert len(written) == len(jobs), "each job leaves a part"
        manifest = _manifest(splits, written, about)
        manifest.write(folder / FILE_NAME)
        shutil.rmtree(parts)
    return manifest, {name: said for one in written for name, said in one.left_out.items()}


def plan(splits: Mapping[str | None, Any], options: Options) -> list[Job]:
    """Say which samples are in which shard."""
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


def _groups(splits: Mapping[str | None, Any]) -> dict[int | str | None, tuple[str | None, list[int]]]:
    """Samples by fold, where all are in one, else by split; each with the data set that has them."""
    by_fold: dict[Any, tuple[str | None, list[int]]] = {}
    for split, dataset in splits.items():
        for index in range(len(dataset)):
            fold = record(dataset, index).get("fold")
            if type(fold) is not int or by_fold.setdefault(fold, (split, []))[0] != split:
                return {split: (split, list(range(len(dataset)))) for split, dataset in splits.items()}
            by_fold[fold][1].append(index)
    return dict(sorted(by_fold.items()))


def _mean_bytes(dataset: Any, indices: Sequence[int], audio: Audio) -> float:
    """What a sample takes of a shard, about, by the first that can be read: files with their headers."""
    sizes = []
    for index in indices[: 4 * _TRIED]:
        try:
            content = encode(dataset, index, audio=audio)
        except (OSError, ValueError):
            continue
        files = [content[suffix] for suffix in suffixes(content)]
        sizes.append(sum(TAR_BLOCK * (1 + math.ceil(len(file) / TAR_BLOCK)) for file in files))
        if len(sizes) == _TRIED:
            break
    return float(np.mean(sizes)) if sizes else 1.0


def _begin(folder: Path, jobs: Sequence[Job], about: Mapping[str, Any]) -> Path:
    """The folder of what is done so far; raises if the shards there are of another plan."""
    parts, key = folder / _PARTS, _key(jobs, about)
    noted = parts / "plan"
    if (folder / FILE_NAME).exists():
        raise ValueError(f"{folder} has a set of shards already, with a manifest. Name another folder.")
    if noted.exists() and noted.read_text() != key:
        raise ValueError(
            f"{folder} has the beginning of another set of shards. Name another folder, or remove this one."
        )
    if not noted.exists() and any(folder.glob("*.tar")):
        raise ValueError(f"{folder} has tar files that this command did not begin. Name another folder.")
    parts.mkdir(exist_ok=True)
    write_whole(noted, lambda file: file.write(key.encode()))
    _remove_halves(folder)
    return parts


def _key(jobs: Sequence[Job], about: Mapping[str, Any]) -> str:
    content = [[job.file, job.source, list(job.indices)] for job in jobs]
    return hashlib.sha256(json.dumps([content, about], default=str).encode()).hexdigest()


def _write_missing(
    splits: Mapping[str | None, Any], folder: Path, parts: Path, jobs: Sequence[Job], options: Options
) -> None:
    missing = [job for job in jobs if _read_part(folder, parts, job) is None]
    for dataset in splits.values():
        prepare = getattr(dataset, "prepare", None)
        if callable(prepare) and missing and _decodes(dataset, options.audio):
            prepare()  # once, and not in every process
    try:
        for _ in in_processes(
            _Write(splits, folder, parts, options),
            missing,
            processes=options.processes,
            title="Writing shards",
            unit="samples",
            size=lambda job: len(job.indices),
        ):
            pass
    finally:
        _remove_halves(folder)


def _decodes(dataset: Any, audio: Audio) -> bool:
    """Whether samples are decoded, not only their files copied."""
    return audio != "keep" or not hasattr(dataset, "files") or dataset.files(0) is None


@dataclass(frozen=True)
class _Write:
    """Writes one shard, and notes that it is done."""

    splits: Mapping[str | None, Any]
    folder: Path
    parts: Path
    options: Options

    def __call__(self, job: Job) -> None:
        dataset, options = self.splits[job.source], self.options
        written = write_shard(self.folder, job, dataset, audio=options.audio, skip=options.skip)
        content = {**written._asdict(), "entry": written.entry.to_json() if written.entry else None}
        write_whole(_part(self.parts, job), lambda file: file.write(json.dumps(content).encode()))


def _part(parts: Path, job: Job) -> Path:
    return parts / f"{job.file}.json"


def _read_part(folder: Path, parts: Path, job: Job) -> Written | None:
    """What is noted of a shard that is done; None: it is not, or not there any more."""
    try:
        content = json.loads(_part(parts, job).read_bytes())
        entry = ShardEntry.from_json(content["entry"]) if content["entry"] else None
        whole = entry is None or (folder / entry.file).stat().st_size == entry.size_bytes
        return Written(**{**content, "entry": entry}) if whole else None
    except (OSError, ValueError, TypeError, LookupError):
        return None  # no note, or none that can be read: the shard is made anew


def _manifest(
    splits: Mapping[str | None, Any], written: Sequence[Written], made_from: Mapping[str, Any]
) -> Manifest:
    entries = [one.entry for one in written if one.entry]
    if not entries:
        raise ValueError("no sample could be read: there is no shard.")
    common = set.intersection(*(set(one.suffixes) for one in written if one.entry))
    datasets = list(splits.values())
    names = [name for dataset in datasets for name in getattr(dataset, "class_names", None) or ()]
    about = SetEntry(
        format=FORMAT,
        name=" and ".join(dict.fromkeys(results_name(dataset) for dataset in datasets)),
        class_names=list(dict.fromkeys(names)),
        suffixes=sorted(common),
        texts=any(one.texts for one in written),
        made_from=dict(made_from),
    )
    return Manifest(about=about, shards=tuple(entries))


def _remove_halves(folder: Path) -> None:
    """Remove what processes that were ended had begun."""
    for left in folder.glob("*.tar.part-*"):
        left.unlink(missing_ok=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A block in which no other process writes to a folder."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"{folder} is being written to by another process. Wait for it, or end it."
        ) from None
