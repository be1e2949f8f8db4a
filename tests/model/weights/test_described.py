"""Weights are found and described: their network, their limits, what they were trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.audioclip import AudioCLIP
from model.weights import releases
from model.weights.described import (
    LIMITS,
    RELEASED,
    UNTRAINED,
    DescribedWeights,
    describe_weights,
    released_or_untrained,
)
from model.weights.fetch import hash_of
from model.weights.releases import RELEASES, WeightsError


def test_random_weights_come_with_an_explanation() -> None:
    weights = describe_weights(UNTRAINED)
    assert (weights.name, weights.source, weights.limits) == (UNTRAINED, None, LIMITS)
    assert f"Name {RELEASED} as the weights" in LIMITS and "zero-shot classification" in LIMITS


def test_complete_released_weights_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert released_or_untrained(assets=tmp_path) == UNTRAINED
    path = tmp_path / RELEASES[RELEASED].file
    path.write_bytes(b"1234")
    assert released_or_untrained(assets=tmp_path) == UNTRAINED  # with another size
    torch.save({"weight": torch.zeros(1)}, path)
    size = path.stat().st_size
    known = {**RELEASES, RELEASED: replace(RELEASES[RELEASED], size_bytes=size)}
    monkeypatch.setattr(releases, "RELEASES", known)
    assert released_or_untrained(assets=tmp_path) == RELEASED
    weights = describe_weights(RELEASED, assets=tmp_path)
    assert (weights.name, weights.source, weights.limits) == (RELEASED, path, None)


def test_a_checkpoint_has_the_network_of_its_run(
    tmp_path: Path, small_model: AudioCLIP, weights_folder: Path
) -> None:
    arguments = json.loads((weights_folder / "config.json").read_text())
    model = {"class": "model.audioclip.AudioCLIP", "args": {**arguments, "pretrained": True}}
    path = tmp_path / "run/checkpoints/best_accuracy_epoch-3_0.9000.pt"
    path.parent.mkdir(parents=True)
    torch.save(small_model.state_dict(), path)
    (tmp_path / "run/protocol.json").write_text(json.dumps({"Model": model}))
    header = 'clip,fold,target,prediction,score: dog,"score: sea, waves"\n'
    (tmp_path / "run/predictions.csv").write_text(header)
    weights = describe_weights(str(path))
    assert weights.trained_labels == ("dog", "sea, waves")
    assert weights.name == "best_accuracy_epoch-3_0.9000" and "pretrained" not in weights.arguments
    loaded = weights.load()
    assert not loaded.training
    assert torch.equal(loaded.embed_text("dog").cpu(), small_model.embed_text("dog"))
    (tmp_path / "run/protocol.json").write_text(json.dumps({"Model": {**model, "class": "model.X"}}))
    with pytest.raises(
        WeightsError, match=r"holds weights of model\.X, not of AudioCLIP\. Build X instead: "
    ):
        describe_weights(str(path))


@pytest.fixture
def run(tmp_path: Path, small_model: AudioCLIP, weights_folder: Path) -> Callable[..., Path]:
    """Return a function that makes the folder of a run with frozen weights; it returns a checkpoint."""

    def make(pretrained: object, *frozen: str, name: str = "run") -> Path:
        arguments = json.loads((weights_folder / "config.json").read_text())
        model = {"class": "model.audioclip.AudioCLIP", "args": {**arguments, "pretrained": pretrained}}
        best = tmp_path / name / "checkpoints/best_accuracy_epoch-3_0.9000.pt"
        best.parent.mkdir(parents=True)
        torch.save(small_model.state_dict(), best)
        kept = {
            name: value.detach() for name, value in small_model.named_parameters() if name.startswith(frozen)
        }
        torch.save(kept, best.with_name("frozen_weights.pt"))
        others = {name: value for name, value in small_model.state_dict().items() if name not in kept}
        torch.save({"model": others, "position": {"epoch": 4}}, best.with_name("last_epoch-4.pt"))
        (tmp_path / name / "protocol.json").write_text(json.dumps({"Model": model}))
        return best

    return make


CLIP = ("visual", "transformer", "token_embedding", "ln_final", "positional_embedding", "text_projection")


@pytest.mark.parametrize(
    ("pretrained", "frozen", "towers"),
    [
        (False, CLIP, "image and text towers have"),
        ({"audio": "ESRNXFBSP"}, CLIP, "image and text towers have"),
        ({"clip": None, "audio": "ESRNXFBSP"}, CLIP, "image and text towers have"),
        (False, ("visual",), "image tower has"),
        (False, ("audio",), "audio tower has"),
        (False, ("visual.conv1", "text_projection"), None),  # the rest was trained
        ({"clip": "CLIP"}, CLIP, None),
        (True, CLIP, None),
        ("results/earlier", CLIP, None),
    ],
)
def test_towers_that_kept_random_weights_are_named(
    run: Callable[..., Path], pretrained: object, frozen: tuple[str, ...], towers: str | None
) -> None:
    best = run(pretrained, *frozen)
    for checkpoint in (best, best.with_name("last_epoch-4.pt")):
        limits = describe_weights(str(checkpoint)).limits
        expected = f"The {towers} random weights, which the run did not train: results for "
        assert (limits is None) == (towers is None)
        assert limits is None or (limits.startswith(expected) and limits.endswith("are arbitrary."))


@pytest.mark.parametrize(
    ("earlier", "part", "towers"),
    [
        (CLIP, None, "image and text towers have"),
        (CLIP, "clip", "image and text towers have"),
        (("visual",), None, "image tower has"),
        (("audio",), None, None),  # this run trained it
    ],
)
def test_towers_from_a_run_that_left_them_random_are_named(
    run: Callable[..., Path], earlier: tuple[str, ...], part: str | None, towers: str | None
) -> None:
    first = run(False, *earlier, name="earlier")
    folder = first.parents[1]
    best = {"finished": "2026-01-01", "best": [{"checkpoint": first.name}]}
    (folder / "result.json").write_text(json.dumps(best))
    later = run({part: str(folder), "audio": "ESRNXFBSP"} if part else str(folder), *CLIP)
    assert describe_weights(str(later)).limits is None  # the run does not say which file it started from
    weights = [{"name": first.name, "sha256": hash_of(first)}]
    (later.parents[1] / "result.json").write_text(json.dumps({"weights": weights}))
    limits = describe_weights(str(later)).limits
    assert (limits is None) == (towers is None)
    assert limits is None or limits.startswith(f"The {towers} random weights, which the run did not train")
    with first.open("ab") as file:
        file.write(b"another run's")
    assert describe_weights(str(later)).limits is None


def test_weights_of_a_run_with_a_damaged_protocol_are_refused(run: Callable[..., Path]) -> None:
    best = run(False, *CLIP)
    (best.parents[1] / "protocol.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"protocol\.json"):
        describe_weights(str(best))


def test_damaged_frozen_weights_cause_no_message(run: Callable[..., Path]) -> None:
    best = run(False, *CLIP)
    (best.parent / "frozen_weights.pt").write_text("[]")
    assert describe_weights(str(best)).limits is None


MANY = tuple(f"class {number}" for number in range(18))


@pytest.mark.parametrize(
    ("labels", "texts", "said"),
    [
        (("dog", "sea_waves"), ["Dog", " sea waves "], None),
        ((), ["cat"], None),
        (
            ("dog", "sea_waves"),
            ["dog", "cat", "rain"],
            "2 labels: dog, sea_waves. Not among them: cat, rain.",
        ),
        (MANY, ["cat"], f"18 labels: {', '.join(MANY[:16])}, and 2 more. Not among them: cat."),
    ],
)
def test_one_line_names_untrained_labels(labels: tuple[str, ...], texts: list[str], said: str | None) -> None:
    expected = (
        f"These weights come from a run on {said} Their scores are far less reliable, however high."
        if said
        else None
    )
    assert DescribedWeights("run", None, trained_labels=labels).caveat(texts) == expected


@pytest.mark.parametrize(
    ("given", "templates"),
    [(None, ("{}",)), ("a sound of {}", ("a sound of {}",)), (["{}", "the {}"], ("{}", "the {}"))],
)
def test_the_templates_of_a_run_are_known(
    run: Callable[..., Path], given: str | list[str] | None, templates: tuple[str, ...]
) -> None:
    best = run(False)
    path = best.parents[1] / "protocol.json"
    task = {"class": "utils.tasks.AudioTextContrastive", "args": {"template": given} if given else {}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "Task": task}))
    assert describe_weights(str(best)).trained_templates == templates


def test_a_label_in_another_template_is_untrained() -> None:
    plain = DescribedWeights("run", None, trained_labels=("dog", "rain"))
    assert plain.caveat(["dog", "rain"]) is None
    assert "Not among them: a dog, a rain. Their" in str(plain.caveat(["dog", "rain"], "a {}"))
    put = replace(plain, trained_templates=("a {}",))
    assert put.caveat(["Dog"], "A {}") is None
    expected = 'a run on 2 labels in the text "a {}": dog, rain. Not among these texts: dog. Their'
    assert expected in str(put.caveat(["dog"]))


def test_a_hub_repository_must_be_downloaded_first() -> None:
    with pytest.raises(WeightsError, match="someone/audioclip: not a folder"):
        describe_weights("someone/audioclip")


def test_random_weights_are_the_same_every_time(weights_folder: Path) -> None:
    arguments = json.loads((weights_folder / "config.json").read_text())
    first, second = (DescribedWeights(UNTRAINED, None, arguments=arguments).load() for _ in range(2))
    assert torch.equal(first.audio.fc.weight, second.audio.fc.weight)
