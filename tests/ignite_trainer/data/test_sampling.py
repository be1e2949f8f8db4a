"""Class-balanced sampling: probabilities, draws that depend on seed and epoch alone, repeated samples."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from toy_research.augment import Blend, Fit, GlobalHiss, Hiss
from toy_research.protocols import Command, draw_toy, run_toy, toy
from toy_research.ranks import on_ranks
from toy_research.records import differences, only_run
from toy_research.signals import LabelledTones, Listing
from toy_research.watching import Notebook

from ignite_trainer.api.batch import Alternatives, collate
from ignite_trainer.commands.stopwatch import project
from ignite_trainer.data.loader import Batch, SplitLoader
from ignite_trainer.data.samples import Reference, UnreadableSamples
from ignite_trainer.data.sampling import BalancedSampling, repetitions
from ignite_trainer.data.streams import EpochOrder
from ignite_trainer.protocol.identity import identity
from ignite_trainer.protocol.validation import validate
from ignite_trainer.runs.construction import build_quickly
from ignite_trainer.support.errors import ProtocolError, RunStopped
from tests.ignite_trainer.data import loading
from tests.ignite_trainer.data.loading import epoch

STEPS: dict[str, list[Any]] = {
    "batched": [Hiss(), Fit(length=16)],
    "single": [GlobalHiss(), Fit(length=16)],
    "both": [GlobalHiss(), Hiss(), Fit(length=16)],
}
EACH = {"Setup__sampling": "each", "Setup__samples_per_epoch": None}


def balanced(**args: Any) -> dict[str, Any]:
    dataset = {"class": "toy_research.signals.LabelledTones", "args": {"fold": 1, **args}}
    return {"Dataset": dataset, "Setup__sampling": "balanced"}


def loader(*steps: Any, dataset: Any = None, samples: int | None = None, **options: Any) -> SplitLoader:
    dataset = LabelledTones() if dataset is None else dataset
    sampling = BalancedSampling(dataset, draws=samples)
    return loading.loader(dataset, *steps, sampling=sampling, **{"drop_last": True, **options})


def positions(batches: list[Batch]) -> list[int]:
    return [int(index) for batch in batches for index in batch.indices]


class Labels:
    """Samples of which only the labels are known."""

    def __init__(self, *labels: str) -> None:
        self._labels = [one.split() for one in labels]

    def __len__(self) -> int:
        return len(self._labels)

    def listing(self, index: int) -> Listing:
        return Listing(f"line {index}", self._labels[index])


# Probabilities


def test_a_sample_weighs_the_sum_of_the_reciprocal_frequencies_of_its_labels() -> None:
    found = BalancedSampling(Labels("dog", "dog rain", "dog", "rain siren", "dog dog")).probabilities
    dog, rain, siren = 1 / 4, 1 / 2, 1.0
    expected = np.array([dog, dog + rain, dog, rain + siren, dog]) / (4 * dog + 2 * rain + siren)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_samples_with_one_label_each_are_equally_probable_if_labels_are_balanced() -> None:
    found = BalancedSampling(LabelledTones(single=True, samples=27, folds=3)).probabilities
    assert found.tolist() == pytest.approx([1 / 18] * 18)


def test_a_label_is_as_probable_as_any_other_if_each_sample_has_one() -> None:
    found = BalancedSampling(Labels(*["dog"] * 90, *["rain"] * 9, "siren")).probabilities
    assert [found[:90].sum(), found[90:99].sum(), found[99]] == pytest.approx([1 / 3] * 3)


def test_a_text_is_a_single_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Labels, "listing", lambda _, index: Listing("", ["dog", "rain"][index % 2]))
    assert BalancedSampling(Labels("", "", "")).probabilities.tolist() == pytest.approx([1 / 4, 1 / 2, 1 / 4])


def test_the_frequencies_of_draws_are_the_probabilities() -> None:
    tones, draws = LabelledTones(), 200_000
    sampling = BalancedSampling(tones, draws=draws)
    counts = np.bincount(sampling.draw(3), minlength=len(tones))
    listed = [tones.listing(index).labels for index in range(len(tones))]
    frequency = Counter(label for labels in listed for label in labels)
    weights = np.array([sum(1 / frequency[label] for label in labels) for labels in listed])
    expected = draws * weights / weights.sum()
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 43.8  # 19 degrees of freedom: exceeded by one in a thousand
    assert max(weights) > 3 * min(weights)


def test_a_description_compares_labels_with_the_data() -> None:
    sampling = BalancedSampling(Labels(*["dog"] * 90, *["rain"] * 9, "siren"), draws=50)
    assert sampling.description == (
        'balanced: 50 draws per epoch; 3 labels, of which "siren" (1 sample) is drawn 33.3 times as often as '
        'in the data, "dog" (90 samples) 0.37 times'
    )


# Draws


def test_repetitions_count_earlier_draws_of_the_same_sample() -> None:
    order: NDArray[np.int64] = np.array([4, 2, 4, 0, 2, 4, 4])
    assert repetitions(order).tolist() == [0, 0, 1, 0, 1, 2, 3]
    assert repetitions(np.array([7])).tolist() == [0]


def test_batch_size_and_workers_do_not_change_what_is_drawn() -> None:
    for number in (1, 2):
        expected = positions(epoch(loader(*STEPS["single"], samples=24), number))
        assert len(expected) == 24 > len(set(expected))
        for options in ({"batch_size": 6}, {"batch_size": 12}, {"workers": 2}):
            assert positions(epoch(loader(*STEPS["single"], samples=24, **options), number)) == expected
        assert positions(epoch(loader(*STEPS["single"], samples=24, seed=6), number)) != expected
    batches = loader(*STEPS["single"], samples=24)
    assert positions(epoch(batches, 1)) != positions(epoch(batches, 2))


def test_an_epoch_has_as_many_draws_as_the_split_has_samples_by_default() -> None:
    batches = loader(Fit(length=16))
    assert len(positions(epoch(batches))) == len(LabelledTones()) == 20
    assert len(loader(Fit(length=16), samples=30)) == 7


def order_of_rank(number: int) -> list[list[Reference]]:
    sampling = BalancedSampling(LabelledTones(), draws=30)
    order = EpochOrder(count=30, batch_size=6, shuffle=True, drop_last=True, seed=5, sampling=sampling)
    order.epoch = number
    return list(order)


@pytest.mark.processes
def test_processes_share_the_draws_of_one(tmp_path: Path) -> None:
    alone = order_of_rank(2)
    shares = on_ranks(2, tmp_path, order_of_rank, 2)
    assert [[*first, *second] for first, second in zip(*shares, strict=True)] == alone
    assert any(reference.repetition for batch in alone for reference in batch)


# Repeated samples


@pytest.mark.parametrize("steps", STEPS.values(), ids=list(STEPS))
def test_a_sample_is_augmented_differently_each_time_it_is_drawn(steps: list[Any]) -> None:
    each = loading.loader(LabelledTones(), *steps)
    once = {
        int(index): row
        for batch in epoch(each)
        for index, row in zip(batch.indices, batch.sample.signal, strict=True)
    }
    for options in ({}, {"batch_size": 10}, {"workers": 2}):
        drawn: dict[int, list[torch.Tensor]] = {}
        for batch in epoch(loader(*steps, samples=60, **options)):
            for index, row in zip(batch.indices, batch.sample.signal, strict=True):
                drawn.setdefault(int(index), []).append(row)
        assert max(map(len, drawn.values())) > 5
        for index, rows in drawn.items():
            # The first time, a sample is augmented as without sampling.
            assert torch.equal(rows[0], once[index])
            assert len({tuple(row.flatten().tolist()) for row in rows}) == len(rows)


class Described(Labels):
    """Samples with a hundred texts; the first label is rare."""

    def __init__(self) -> None:
        super().__init__("rare", *["frequent"] * 19)

    def __getitem__(self, index: int) -> Any:
        return np.full((1, 4), float(index), np.float32), Alternatives(f"text {n}" for n in range(100))


def test_a_text_is_drawn_anew_for_each_repetition() -> None:
    texts: list[str] = []
    for batch in epoch(loader(dataset=Described(), draws=True)):
        rows = (batch.indices == 0).nonzero().flatten().tolist()
        texts += [batch.sample[1][row] for row in rows]
    assert len(texts) > 5
    assert len(set(texts)) > 0.7 * len(texts)


def test_a_task_has_other_random_numbers_each_time_a_sample_is_drawn() -> None:
    batches = loader(Fit(length=16), samples=60)
    drawn: dict[int, list[float]] = {}
    for batch in epoch(batches):
        assert batch.random is not None
        for index, number in zip(batch.indices.tolist(), batch.random.uniform().tolist(), strict=True):
            drawn.setdefault(index, []).append(number)
    for index, numbers in drawn.items():
        assert numbers[0] == float(batches.streams([index], epoch=1).uniform())
        assert len(set(numbers)) == len(numbers)
    assert max(map(len, drawn.values())) > 5


class Named(Labels):
    """Samples with a list field; the first label is rare."""

    def __init__(self) -> None:
        super().__init__("rare", "seldom seldom", *["frequent"] * 30)

    def __getitem__(self, index: int) -> Any:
        return np.full((1, 4), float(index), np.float32), [f"name {index}"]


def test_a_sample_shown_in_a_report_is_mixed_as_when_it_is_first_drawn() -> None:
    def mixing() -> SplitLoader:
        return loader(GlobalHiss(), Hiss(), Blend(), dataset=Named())

    found: dict[int, tuple[torch.Tensor, Any]] = {}
    drawn = Counter[int]()
    for batch in epoch(mixing()):
        for row, index in enumerate(batch.indices.tolist()):
            found.setdefault(index, (batch.sample[0][row], batch.sample[1][row]))
            drawn[index] += 1
    partners = [mixed.samples[-1] for _, mixed in found.values()]
    assert max(drawn[partner] for partner in partners) > 1
    shown = mixing()
    for index in range(len(Named())):
        signal, [mixed] = shown.one(index, epoch=1)
        if index in found:
            assert mixed == found[index][1]
            assert torch.equal(signal[0], found[index][0])
        else:
            assert mixed.samples == (index,)
    assert len(found) < len(Named())


class InBatches(LabelledTones):
    """Tones that are read in whole batches, of which one cannot be read."""

    def __init__(self, *, gone: int | None = None) -> None:
        super().__init__(spread=0)
        self._gone = gone

    def read_batch(self, indices: list[int]) -> Any:
        if self._gone in indices:
            raise OSError("it is cut off")
        return collate([self[index] for index in indices])


def test_batches_that_are_read_whole_have_repeated_samples_too() -> None:
    dataset = InBatches()
    singly = epoch(loader(*STEPS["batched"], dataset=dataset, samples=60))
    whole = epoch(loader(*STEPS["batched"], dataset=dataset, samples=60, batches=dataset))
    assert positions(whole) == positions(singly)
    for one, other in zip(whole, singly, strict=True):
        assert torch.equal(one.sample.signal, other.sample.signal)


def test_an_unreadable_sample_is_dropped_as_often_as_it_is_drawn() -> None:
    expected = epoch(loader(*STEPS["batched"], dataset=InBatches(), samples=60))
    gone = Counter(positions(expected)).most_common(1)[0][0]
    dataset = InBatches(gone=gone)
    unreadable = UnreadableSamples(dataset, split="given", max_share=0.1)
    found = loader(*STEPS["batched"], dataset=dataset, samples=60, batches=dataset, unreadable=unreadable)
    for batch, whole in zip(epoch(found), expected, strict=True):
        kept = whole.indices != gone
        assert torch.equal(batch.indices, whole.indices[kept])
        assert torch.equal(batch.sample.signal, whole.sample.signal[kept])
    assert unreadable.state_dict() == {gone: "it is cut off"}


# Runs


def test_a_run_says_how_labels_are_drawn(tmp_path: Path) -> None:
    run_toy(tmp_path, **balanced(), Setup__samples_per_epoch=40, Setup__epochs=1)
    (start,) = Notebook.last.of("start")
    assert start.facts["Training split"] == "20 samples, 5 batches"
    assert start.facts["Sampling"] == BalancedSampling(LabelledTones(), draws=40).description
    assert start.iterations_per_epoch == 5
    run_toy(tmp_path, Setup__epochs=1)
    (start,) = Notebook.last.of("start")
    assert "Sampling" not in start.facts


def test_a_run_stopped_within_an_epoch_continues_bit_identically(tmp_path: Path) -> None:
    changes = {**balanced(), "Setup__samples_per_epoch": 32, "Setup__batch_train": 4}
    signalled = {"class": "toy_research.learning.Signalled", "args": {"name": "SIGTERM"}}
    whole = run_toy(tmp_path / "whole", Task=signalled, **changes)
    stop = {**signalled, "args": {"name": "SIGTERM", "step": 11}}
    with pytest.raises(RunStopped):
        run_toy(tmp_path / "parts", Task=stop, **changes)
    protocol = only_run(tmp_path / "parts") / "protocol.json"
    protocol.write_text(json.dumps({**json.loads(protocol.read_text()), "Task": signalled}))
    resumed = {**changes, "Setup__resume": "auto", "Setup__workers_train": 2}
    parts = run_toy(tmp_path / "parts", Task=signalled, **resumed)
    assert differences(whole.folder, parts.folder) == []
    each = run_toy(tmp_path / "each", Task=signalled, **{**changes, **EACH})
    assert differences(whole.folder, each.folder)


def test_sampling_makes_another_variant_of_an_experiment(tmp_path: Path) -> None:
    plain = identity(validate(toy(tmp_path)))
    assert plain == identity(validate(toy(tmp_path, **EACH)))
    several: list[dict[str, Any]] = [
        {"Setup__sampling": "balanced"},
        {"Setup__sampling": "balanced", "Setup__samples_per_epoch": 9},
    ]
    others = [identity(validate(toy(tmp_path, **changes))) for changes in several]
    assert plain not in others and others[0] != others[1]


def test_projections_count_the_draws_of_an_epoch(tmp_path: Path) -> None:
    changes = {"Setup__sampling": "balanced", "Setup__samples_per_epoch": 50, "Setup__epochs": 3}
    changes |= {"Setup__skip_train_evaluation": True}
    protocol = draw_toy(tmp_path, **changes).protocol
    found = project(protocol, {"train": 20, "test": 10}, {"training": 4.0, "evaluation": 5.0})
    assert found.seconds_per_run == pytest.approx(3 * 48 / 4 + 4 * 10 / 5)


def test_the_command_explains_the_sampling(command: Command) -> None:
    path = command.write(**balanced(), Setup__samples_per_epoch=40)
    status, said, _ = command("-c", path, "--explain")
    assert status == 0
    assert "balanced: 40 draws per epoch; 6 labels, of which" in " ".join(said.split())


# Errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"Dataset": {"class": "toy_research.signals.Tones"}},
            'Setup.sampling is "balanced", but Tones does not list the labels of its samples; give it a '
            "method listing(index) (see ignite_trainer/api/self_description.py), or set Setup.sampling to "
            '"each".',
        ),
        (
            {"Dataset": {"class": "toy_research.signals.TonesInStretches"}},
            'Setup.sampling is "balanced", but TonesInStretches is read sequentially, and rare samples '
            "cannot be read more often; use the data set that it was made from, or set Setup.sampling to "
            '"each".',
        ),
        (
            balanced(unlabelled=[3, 5, 6, 8]),
            'Setup.sampling is "balanced", but 4 of 20 training samples have no label and would never be '
            "drawn (tones.csv, line 5, tones.csv, line 8, tones.csv, line 10); label or remove them, or set "
            'Setup.sampling to "each".',
        ),
        (
            balanced(dl_shuffle=False),
            'Dataset.args.dl_shuffle is false, but Setup.sampling is "balanced", which draws samples in '
            'random order; remove dl_shuffle, or set Setup.sampling to "each".',
        ),
    ],
)
def test_sampling_that_is_impossible_is_refused(
    tmp_path: Path, command: Command, changes: dict[str, Any], message: str
) -> None:
    changes = {**changes, "Setup__sampling": "balanced"}
    with pytest.raises(ProtocolError) as caught:
        build_quickly(draw_toy(tmp_path, **changes))
    assert str(caught.value) == message
    build_quickly(draw_toy(tmp_path, **changes, Setup__epochs=0))  # nothing is drawn
    status, said, _ = command("-c", command.write(**changes), "--check")
    assert status == 1
    assert message in " ".join(said.split())


def test_the_number_of_draws_needs_draws_and_fills_a_batch(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError) as caught:
        draw_toy(tmp_path, Setup__samples_per_epoch=40)
    assert str(caught.value) == (
        'Setup.samples_per_epoch is 40, but Setup.sampling is "each", which takes every sample once; set '
        'Setup.sampling to "balanced", or Setup.samples_per_epoch to null.'
    )
    with pytest.raises(ProtocolError) as caught:
        run_toy(tmp_path, **balanced(), Setup__samples_per_epoch=6)
    assert str(caught.value) == (
        "Setup.batch_train is 8, but Setup.samples_per_epoch is 6, fewer than one batch. Lower it to 6 or "
        "less with -b."
    )
