"""Retrieval metrics equal their definitions in plain loops, over every order of tied items."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from utils.evaluations import retrieval
from utils.evaluations.retrieval import PositivePairs, RetrievalResult, retrieval_metrics

ROOT = Path(__file__).parents[3]
KS = (1, 2, 4)


# The definitions, computed with fractions.


class Problem(NamedTuple):
    queries: Tensor
    items: Tensor
    query_labels: list[set[str]]
    item_labels: list[set[str]]

    def swapped(self) -> Problem:
        return Problem(self.items, self.queries, self.item_labels, self.query_labels)

    def solve(self) -> RetrievalResult:
        positives = PositivePairs(self.query_labels, self.item_labels)
        return retrieval_metrics(self.queries, self.items, positives, k=KS)


def figures_of_ranking(relevant: Sequence[bool], ks: Sequence[int]) -> dict[str, Fraction]:
    """Compute the figures of a ranking without ties, best item first."""
    total = sum(relevant)
    figures = {"P@1": Fraction(int(relevant[0]))}
    for k in ks:
        figures[f"R@{k}"] = Fraction(sum(relevant[:k]), total)
    for name, last in (("mAP", len(relevant)), (f"mAP@{max(ks)}", max(ks))):
        precisions = Fraction(0)
        for rank in range(1, min(last, len(relevant)) + 1):
            if relevant[rank - 1]:
                precisions += Fraction(sum(relevant[:rank]), rank)
        figures[name] = precisions / min(last, total)
    for k in ks:
        figures[f"hit@{k}"] = Fraction(int(any(relevant[:k])))
    figures["rank"] = Fraction(list(relevant).index(True) + 1)
    return figures


def orders(scores: Sequence[Fraction], relevant: Sequence[bool]) -> Iterator[list[bool]]:
    """Yield every ranking that ties allow, as relevance by rank; all are equally probable."""
    groups = []
    for score in sorted(set(scores), reverse=True):
        tied = [flag for value, flag in zip(scores, relevant, strict=True) if value == score]
        places = itertools.combinations(range(len(tied)), sum(tied))
        groups.append([[place in chosen for place in range(len(tied))] for chosen in places])
    for pattern in itertools.product(*groups):
        yield [flag for group in pattern for flag in group]


def brute_force(problem: Problem) -> RetrievalResult:
    """Average over queries the average over orders."""
    item_vectors = [[Fraction(x) for x in vector] for vector in problem.items.tolist()]
    of_queries: list[dict[str, Fraction]] = []
    for query, labels in zip(problem.queries.tolist(), problem.query_labels, strict=True):
        relevant = [bool(labels & of_item) for of_item in problem.item_labels]
        if not any(relevant):
            continue
        vector = [Fraction(x) for x in query]
        scores = [sum((a * b for a, b in zip(vector, v, strict=True)), Fraction(0)) for v in item_vectors]
        rankings = [figures_of_ranking(order, KS) for order in orders(scores, relevant)]
        of_queries.append({name: mean([ranking[name] for ranking in rankings]) for name in rankings[0]})
    ranks = sorted(figures.pop("rank") for figures in of_queries)
    values = {name: float(mean([figures[name] for figures in of_queries])) for name in of_queries[0]}
    assert values.pop("hit@1") == values["P@1"]
    if all(values[f"hit@{k}"] == values[f"R@{k}"] for k in KS[1:]) and not any(
        sum(bool(labels & of_item) for of_item in problem.item_labels) > 1 for labels in problem.query_labels
    ):
        values = {name: value for name, value in values.items() if not name.startswith("hit@")}
    middle = (ranks[(len(ranks) - 1) // 2], ranks[len(ranks) // 2])
    return RetrievalResult({**values, "medR": float(mean(middle))}, queries=len(of_queries))


def mean(values: Sequence[Fraction]) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def random_vectors(rng: random.Random, count: int, kind: str) -> Tensor:
    """Make unit vectors: on a lattice or as copies of a few, so that many tie, or all distinct."""
    if kind == "lattice":
        halves = [list(signs) for signs in itertools.product((-0.5, 0.5), repeat=4)]
        axes = [[0.0] * i + [1.0] + [0.0] * (3 - i) for i in range(4)]
        return torch.tensor([rng.choice(halves + axes) for _ in range(count)])
    few = [[rng.gauss(0, 1) for _ in range(4)] for _ in range(3 if kind == "copies" else count)]
    dtype = rng.choice([torch.float32, torch.float64])
    vectors = F.normalize(torch.tensor(few, dtype=dtype), dim=1)
    return vectors[[rng.randrange(3) for _ in range(count)]] if kind == "copies" else vectors


def random_problem(seed: int) -> Problem:
    rng = random.Random(seed)
    kind, most_labels = rng.choice(["lattice", "copies", "distinct"]), rng.choice([1, 3])
    counts = rng.randint(1, 6), rng.randint(1, 9)
    queries, items = (random_vectors(rng, count, kind) for count in counts)
    labels = [
        [set(rng.sample("abcd", rng.randint(most_labels == 1, most_labels))) for _ in range(count)]
        for count in counts
    ]
    labels[0][0] = labels[1][-1] = {"a"}
    return Problem(queries, items, *labels)


# Against brute force


def test_metrics_are_the_mean_over_all_orders_of_ties_on_200_random_problems() -> None:
    ties = several = left_out = 0
    for seed in range(200):
        for problem in (random_problem(seed), random_problem(seed).swapped()):
            expected, found = brute_force(problem), problem.solve()
            assert found.values == pytest.approx(expected.values, abs=1e-12), f"seed {seed}"
            assert found.queries == expected.queries
            ties += len(problem.items.unique(dim=0)) < len(problem.items)
            several += len(problem.items) > sum("a" in labels for labels in problem.item_labels) > 1
            left_out += found.queries < len(problem.queries)
    assert min(ties, several, left_out) > 50, (
        "too few problems have ties, several positives or queries without one"
    )


def set_chunk(patch: pytest.MonkeyPatch, queries: int, items: Tensor) -> None:
    """Score this many queries at a time."""
    patch.setattr(retrieval, "_SCORES_AT_ONCE", queries * len(items))


def test_the_chunk_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(200):
        problem = random_problem(seed)
        whole = problem.solve()
        for chunk in (1, 2, 3):
            with monkeypatch.context() as patch:
                set_chunk(patch, chunk, problem.items)
                assert problem.solve() == whole


def larger_problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make many ties in sizes that matrix products split into unequal tiles."""
    generator = torch.Generator().manual_seed(0)
    items = F.normalize(torch.randn(170, 1023, generator=generator), dim=1).repeat(3, 1)
    queries = F.normalize(items[:301] + 0.05 * torch.randn(301, 1023, generator=generator), dim=1)
    labels = torch.randint(0, 40, (811,), generator=generator)
    return queries, items, labels[:301], labels[301:]


def test_chunk_size_and_order_do_not_change_the_result_of_a_larger_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries, items, query_labels, item_labels = larger_problem()
    whole = retrieval_metrics(queries, items, PositivePairs.by_label(query_labels, item_labels))
    for chunk in (1, 7, 64, 300):
        generator = torch.Generator().manual_seed(chunk)
        q, i = torch.randperm(301, generator=generator), torch.randperm(510, generator=generator)
        positives = PositivePairs.by_label(query_labels[q], item_labels[i])
        set_chunk(monkeypatch, chunk, items)
        assert retrieval_metrics(queries[q], items[i], positives) == whole


def test_copies_tie_in_every_tile_of_a_matrix_product() -> None:
    # Each item occurs twice, as the positive and as a negative: an even chance of the first rank.
    generator = torch.Generator().manual_seed(1)
    vectors = F.normalize(torch.randn(501, 1024, generator=generator), dim=1)
    positives = PositivePairs.by_label(range(501), [*range(501), *[-1] * 501])
    found = retrieval_metrics(vectors, vectors.repeat(2, 1), positives)
    assert found.values["P@1"] == found.values["R@1"] == 0.5
    assert found.values["mAP"] == pytest.approx(0.75, abs=1e-12)
    assert found.values["R@5"] == 1.0


def test_float64_and_autocast_yield_the_values_of_float32() -> None:
    queries, items, query_labels, item_labels = larger_problem()
    positives = PositivePairs.by_label(query_labels, item_labels)
    expected = retrieval_metrics(queries, items, positives)
    assert retrieval_metrics(queries.double(), items.double(), positives) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(queries, items, positives) == expected


@pytest.mark.gpu
def test_a_gpu_computes_values_bit_identical_to_the_cpu() -> None:
    queries, items, query_labels, item_labels = larger_problem()
    positives = PositivePairs.by_label(query_labels, item_labels)
    expected = retrieval_metrics(queries, items, positives)
    assert retrieval_metrics(queries.cuda(), items.cuda(), positives) == expected


# Known results


def ranked(*relevant: int) -> tuple[Tensor, Tensor, PositivePairs]:
    """Make a query, items and positives; items are ranked as given, and 1 marks a positive."""
    angles = torch.arange(len(relevant)) * (math.pi / len(relevant))
    items = torch.stack([angles.cos(), angles.sin()], dim=1)
    return torch.tensor([[1.0, 0.0]]), items, PositivePairs.by_label([1], list(relevant))


def test_one_ranking_by_hand() -> None:
    found = retrieval_metrics(*ranked(1, 0, 1, 0, 0, 1)).values
    assert list(found) == ["P@1", "R@1", "R@5", "R@10", "mAP", "mAP@10", "hit@5", "hit@10", "medR"]
    assert found["P@1"] == 1
    assert found["R@1"] == pytest.approx(1 / 3)  # one of three positives: here, P@1 and R@1 differ
    assert found["R@5"] == pytest.approx(2 / 3)
    assert found["R@10"] == 1  # more ranks than items
    assert found["mAP"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    assert found["mAP@10"] == found["mAP"]


def test_ranks_beyond_k_by_hand() -> None:
    found = retrieval_metrics(*ranked(0, 1, 0, 1, 1, 1), k=(1, 2)).values
    assert found["P@1"] == found["R@1"] == 0
    assert found["R@2"] == pytest.approx(1 / 4)
    assert found["mAP"] == pytest.approx((1 / 2 + 2 / 4 + 3 / 5 + 4 / 6) / 4)
    assert found["mAP@2"] == pytest.approx((1 / 2) / 2)  # divided by min(2, 4)


def test_map_at_10_reaches_1_with_more_than_10_positives() -> None:
    found = retrieval_metrics(*ranked(*[1] * 12, 0, 0)).values
    assert found["mAP@10"] == found["mAP"] == found["P@1"] == 1
    assert found["R@10"] == pytest.approx(10 / 12)


def test_a_tie_by_hand() -> None:
    # After a negative, three items tie, two of them positives: their ranks are 2, 3 and 4 in any order.
    query = torch.tensor([[1.0, 0.0]])
    items = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [-1.0, 0.0]])
    positives = PositivePairs.by_label([1], [0, 1, 0, 1, 0])
    found = retrieval_metrics(query, items, positives, k=(2, 3)).values
    assert found["R@2"] == pytest.approx((2 / 3) / 2)
    assert found["R@3"] == pytest.approx((4 / 3) / 2)
    two_and_three, two_and_four, three_and_four = 1 / 2 + 2 / 3, 1 / 2 + 2 / 4, 1 / 3 + 2 / 4
    assert found["mAP"] == pytest.approx((two_and_three + two_and_four + three_and_four) / 3 / 2)
    assert found["mAP@3"] == pytest.approx((two_and_three + 1 / 2 + 1 / 3) / 3 / 2)
    assert found["hit@2"] == pytest.approx(2 / 3)
    assert found["hit@3"] == 1
    assert found["medR"] == pytest.approx((2 + 2 + 3) / 3)


def test_a_model_with_identical_embeddings_scores_like_chance() -> None:
    embeddings = torch.tensor([[0.6, 0.8]]).expand(40, 2)
    found = retrieval_metrics(embeddings, embeddings, PositivePairs.by_label(range(40), range(40))).values
    assert found["P@1"] == pytest.approx(1 / 40)
    assert found["R@10"] == pytest.approx(10 / 40)
    assert found["mAP"] == pytest.approx(sum(1 / rank for rank in range(1, 41)) / 40)
    assert found["medR"] == (1 + 40) / 2


def test_a_perfect_model_scores_exactly_1_despite_equal_texts() -> None:
    labels = torch.arange(50).repeat_interleave(7)
    embeddings = torch.eye(50)[labels]
    found = retrieval_metrics(embeddings, embeddings, PositivePairs.by_label(labels, labels)).values
    assert [found[name] for name in ("P@1", "R@10", "mAP", "mAP@10")] == [1.0] * 4
    assert found["R@1"] == pytest.approx(1 / 7)


def test_both_directions_by_hand() -> None:
    # Two texts, three clips; the third clip is nearer to the wrong text.
    texts = torch.eye(2)
    clips = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    text_labels, clip_labels = ["dog", "rain"], ["dog", "rain", "rain"]
    to_clips = retrieval_metrics(texts, clips, PositivePairs.by_label(text_labels, clip_labels)).values
    assert to_clips["P@1"] == 1
    assert to_clips["R@1"] == pytest.approx((1 + 1 / 2) / 2)
    assert to_clips["mAP"] == 1
    to_texts = retrieval_metrics(clips, texts, PositivePairs.by_label(clip_labels, text_labels)).values
    assert to_texts["P@1"] == to_texts["R@1"] == pytest.approx(2 / 3)
    assert to_texts["mAP"] == pytest.approx((1 + 1 + 1 / 2) / 3)


def test_queries_without_positives_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = torch.eye(4)
    positives = PositivePairs([["a"], [], ["c", "d"], ["x"]], [["a"], ["b"], ["d", "c"], []])
    for chunk in (4, 1, 2):
        set_chunk(monkeypatch, chunk, embeddings)
        found = retrieval_metrics(embeddings, embeddings, positives)
        assert found.queries == 2
        assert found.values["P@1"] == found.values["R@1"] == 1.0


def test_an_item_that_shares_several_labels_is_one_positive() -> None:
    positives = PositivePairs([["a", "b", "a"]], [["a", "b"], ["c"], ["b"], ["a", "a"]])
    assert positives.items_of(0).tolist() == [0, 2, 3]
    assert (positives.query_count, positives.item_count) == (1, 4)


def test_labels_given_as_a_string_and_positives_of_other_embeddings_are_refused() -> None:
    with pytest.raises(ValueError, match="A set of labels is a string"):
        PositivePairs([["dog"], "cat"], [["dog"]])
    with pytest.raises(
        ValueError, match="describes 4 queries and 3 items, but there are embeddings of 3 queries and 3"
    ):
        retrieval_metrics(torch.eye(3), torch.eye(3), PositivePairs.by_label("abcd", "abc"))


def test_the_embeddings_are_not_changed() -> None:
    embeddings = F.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1).requires_grad_()
    before = embeddings.detach().clone()
    retrieval_metrics(embeddings, embeddings, PositivePairs.by_label(range(5), range(5)))
    assert torch.equal(embeddings, before)


# Errors


@pytest.mark.parametrize(
    ("queries", "items", "message"),
    [
        (
            torch.eye(2),
            torch.eye(2)[:0],
            r"The items have shape \[0, 2\]; expected \[N, D\], neither of them 0",
        ),
        (torch.eye(2), torch.eye(3), r"queries have shape \[2, 2\] and the items \[3, 3\]"),
        (torch.eye(2), torch.diag(torch.tensor([1.0, 3.0])), r"Row 1 of the items has norm 3 \(1 of 2"),
        (torch.eye(2) * math.nan, torch.eye(2), "Row 0 of the queries has norm nan"),
    ],
)
def test_embeddings_that_cannot_be_compared_are_refused(queries: Tensor, items: Tensor, message: str) -> None:
    positives = PositivePairs.by_label(range(len(queries)), range(len(items)))
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(queries, items, positives)


def test_a_problem_without_positives_is_an_error() -> None:
    positives = PositivePairs.by_label(["dog", "rain"], ["Dog", "Rain"])
    with pytest.raises(ValueError, match=r"None of the 2 queries has a positive among the 2 items"):
        retrieval_metrics(torch.eye(2), torch.eye(2), positives)


# Time and memory

COST = r"""
import json, re, sys, time
from pathlib import Path
import torch
from utils.evaluations import retrieval
from utils.evaluations.retrieval import PositivePairs, retrieval_metrics

count, labels, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
generator = torch.Generator().manual_seed(0)
queries, items = (
    torch.nn.functional.normalize(torch.randn(count, 1024, generator=generator), dim=1) for _ in range(2)
)
ids = torch.arange(count) % labels
start = time.perf_counter()
result = retrieval_metrics(queries, items, PositivePairs.by_label(ids, ids))
seconds = time.perf_counter() - start
# Not ru_maxrss, which a process inherits.
kib = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"seconds": seconds, "gib": kib / 2**20, "values": result.values}))
"""


def cost(count: int, *, labels: int, threads: int) -> tuple[float, float]:
    """Measure seconds and peak GiB of a process that ranks count x count random embeddings, D = 1024."""
    command = [sys.executable, "-c", COST, str(count), str(labels), str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(f"{count} x {count}, {labels} labels: {report}")
    assert report["values"]["P@1"] == pytest.approx(1 / labels, abs=0.05)
    return report["seconds"], report["gib"]


def test_2000_by_2000_takes_little_time_and_memory() -> None:
    seconds, gib = cost(2000, labels=50, threads=1)
    assert seconds < 30
    assert gib < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("labels", [20_000, 50, 2])
def test_20000_by_20000_takes_less_than_2_minutes_and_4_gib(labels: int) -> None:
    """Queries have 1, 400 or 10,000 positives each."""
    seconds, gib = cost(20_000, labels=labels, threads=2)
    assert seconds < 120
    assert gib < 4
