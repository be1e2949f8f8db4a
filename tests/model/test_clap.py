"""CLAP models embed as transformers does, and say what they cannot load or embed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.audio_input import read_audio
from model.audioclip import AudioCLIP
from model.clap import Clap
from model.interfaces import AudioTextModel, ThreeModalityModel
from model.losses import normalised
from model.weights import hub_folders
from model.weights.releases import WeightsError
from model.weights.training_data import seen_in_training
from tests.small_clap import SMALL_CLAP, save_clap, small_clap
from utils.tasks.contrastive_base import encode_clips

RATE = 48000
TEXTS = ["dog", "This is a sound of rain", "Überschall, thunder"]

Array = NDArray[np.float32]


def noise(seconds: float, seed: int = 0, channels: int = 1) -> Array:
    """Return a noisy tone, whose pitch depends on the seed, in 16-bit units."""
    samples = round(seconds * RATE)
    tone = np.sin(2 * np.pi * 300 * (seed + 1) * np.arange(samples) / RATE)
    random = np.random.default_rng(seed).standard_normal((channels, samples))
    return (6000 * tone + 600 * random).astype(np.float32)


@pytest.fixture(scope="module")
def clap() -> Clap:
    return small_clap()


@pytest.fixture(scope="module")
def folder(clap: Clap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clap(clap, tmp_path_factory.mktemp("clap") / "small-clap")


class Reference:
    """The same model by transformers alone."""

    def __init__(self, folder: Path) -> None:
        from transformers import ClapModel, ClapProcessor

        self.model = ClapModel.from_pretrained(folder).eval()
        self.processor = ClapProcessor.from_pretrained(folder)

    def prepared_audio(self, clips: list[Array]) -> Any:
        mono = [clip.astype(np.float64).mean(axis=0) / 32768 for clip in clips]
        return self.processor(audio=mono, sampling_rate=RATE, return_tensors="pt")

    def prepared_text(self, texts: list[str]) -> Any:
        return self.processor(text=texts, return_tensors="pt", padding=True)

    @torch.no_grad()
    def audio(self, clips: list[Array]) -> Tensor:
        found: Tensor = self.model.get_audio_features(**self.prepared_audio(clips)).pooler_output
        return found

    @torch.no_grad()
    def text(self, texts: list[str]) -> Tensor:
        found: Tensor = self.model.get_text_features(**self.prepared_text(texts)).pooler_output
        return found

    @torch.no_grad()
    def probabilities(self, clips: list[Array], texts: list[str]) -> Tensor:
        found: Tensor = self.model(**self.prepared_audio(clips), **self.prepared_text(texts)).logits_per_audio
        return found.softmax(dim=-1)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return Reference(folder)


def test_embeddings_and_probabilities_are_those_of_transformers(folder: Path, reference: Reference) -> None:
    loaded = Clap.from_pretrained(folder)
    clips = [noise(1.3), noise(5.0, seed=1), noise(0.2, seed=2, channels=2), noise(10.0, seed=3)]
    embedded = loaded.embed_audio(clips, sample_rate=RATE)
    torch.testing.assert_close(embedded, reference.audio(clips), atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded.embed_text(TEXTS), reference.text(TEXTS), atol=1e-5, rtol=0)
    probabilities = loaded.classify(clips, TEXTS, sample_rate=RATE)
    torch.testing.assert_close(probabilities, reference.probabilities(clips, TEXTS), atol=1e-5, rtol=0)
    assert (probabilities.amax(dim=0) - probabilities.amin(dim=0)).max() > 0.01  # the clips differ


@pytest.mark.real_data
def test_embeddings_of_real_clips_are_those_of_transformers(
    real_data: Callable[[str], Path], clap: Clap, reference: Reference
) -> None:
    paths = sorted((real_data("esc18") / "audio").iterdir())[::180]
    expected = reference.audio([read_audio(path, RATE) for path in paths])
    torch.testing.assert_close(clap.embed_audio(paths), expected, atol=1e-5, rtol=0)


def test_a_model_with_fusion_embeds_the_same_clip_equally(tmp_path: Path) -> None:
    """transformers marks a random clip of a batch as longer than the input; with one clip, always that."""
    clap = small_clap(fusion=True)
    clips = [noise(3.0), noise(4.0, seed=1)]
    both = clap.embed_audio(clips, sample_rate=RATE)
    torch.testing.assert_close(both[:1], clap.embed_audio(clips[0], sample_rate=RATE))
    reference = Reference(save_clap(clap, tmp_path / "fusion"))
    prepared = reference.prepared_audio(clips)
    prepared["is_longer"] = torch.tensor([[False], [False]])
    with torch.no_grad():
        expected = reference.model.get_audio_features(**prepared).pooler_output
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=0)


def test_a_clip_longer_than_the_input_is_the_average_of_windows(clap: Clap) -> None:
    clip = torch.from_numpy(np.concatenate([noise(9.0), noise(8.0, seed=5)], axis=1))
    ten = 10 * RATE
    windows = torch.stack([clip[:, :ten], clip[:, -ten:]])
    with torch.no_grad():
        expected = normalised(normalised(clap.encode_audio(windows)).sum(dim=0))
        found = clap.encode_audio(clip[None])
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(clap.embed_audio(clip.numpy(), sample_rate=RATE)[0], expected)


def test_audio_at_another_rate_is_resampled(clap: Clap, monkeypatch: pytest.MonkeyPatch) -> None:
    def tones(rate: int) -> Tensor:
        phases = 2 * torch.pi * torch.arange(rate // 2, dtype=torch.float64) / rate
        return (9000 * torch.sin(440 * phases) + 5000 * torch.sin(6000 * phases)).round()[None, None].float()

    monkeypatch.setattr(clap, "encode_audio", lambda audio, **_: audio)
    for audio in (tones(44100), tones(44100).short()):
        resampled = encode_clips(clap, audio, sample_rate=44100)
        assert resampled.shape == (1, 1, RATE // 2)
        difference = (resampled - tones(RATE))[..., 500:-500].abs().max()
        assert difference < 0.005 * 14000  # the filter's ripple
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(encode_clips(clap, audio, sample_rate=44100), resampled)
        for rate in (RATE, None):
            assert encode_clips(clap, audio, sample_rate=rate) is audio


def test_both_models_have_the_interface_and_only_audioclip_embeds_images(
    clap: Clap, small_model: AudioCLIP
) -> None:
    assert isinstance(clap, AudioTextModel)
    assert isinstance(small_model, AudioTextModel)
    models: list[object] = [small_model, clap]
    assert [isinstance(model, ThreeModalityModel) for model in models] == [True, False]
    assert clap.text_is_frozen and not any(weight.requires_grad for weight in clap.parameters())
    with pytest.raises(ValueError, match="Input 1 is an image, which Clap cannot embed; AudioCLIP can"):
        clap.classify([noise(1.0), Image.new("RGB", (8, 8))], ["dog", "cat"], sample_rate=RATE)


def test_no_texts_give_no_tokens(clap: Clap) -> None:
    assert clap.tokenize([]).shape == (0, 40)


def test_a_text_that_is_too_long_and_audio_in_unit_range_are_refused(clap: Clap) -> None:
    with pytest.raises(ValueError, match=r"A text has 41 tokens including start and end, .* at most 40"):
        clap.encode_text(["x" * 39])
    assert clap.encode_text(["x" * 38]).shape == (1, 16)
    with pytest.raises(ValueError, match=r"looks like \[-1, 1\]"):
        clap.encode_audio(torch.full((1, 1, 99), 0.5))
    with pytest.raises(ValueError, match=r"expected \[B, C, T\]"):
        clap.encode_audio(torch.ones(1, 99))


def test_two_models_with_one_seed_are_equal() -> None:
    first, second = small_clap().state_dict(), small_clap().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_repository_is_fetched_once_for_each_kind_of_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The repository has weights of the older format only."""
    asked = []
    repository = tmp_path / "snapshot"
    repository.mkdir()
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (repository / path.name).write_bytes(path.read_bytes())

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns[-1])
        if asked == ["*.safetensors", "pytorch_model*.bin"]:
            torch.save(load_file(folder / "model.safetensors"), repository / "pytorch_model.bin")
        assert name == "laion/clap-htsat-unfused"
        return str(repository)

    monkeypatch.setattr(hub_folders, "snapshot_download", snapshot)
    loaded = Clap("laion/clap-htsat-unfused")
    assert asked == ["*.safetensors", "pytorch_model*.bin"]
    assert loaded.weights_names == {repository / "pytorch_model.bin": "laion/clap-htsat-unfused"}
    assert loaded.weights_files == (repository / "pytorch_model.bin",)
    expected = load_file(folder / "model.safetensors")
    assert torch.equal(loaded.network.logit_scale_a, expected["logit_scale_a"])
    assert "399" in loaded.seen_in_training("ESC-18")


def copy(folder: Path, target: Path, **config: Any) -> Path:
    """Copy a model's folder, with changes to its config."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    content = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**content, **config}))
    return target


def test_errors_name_what_cannot_be_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = copy(folder, tmp_path / "other", model_type="clip")
    with pytest.raises(WeightsError, match='other is a model of type "clip"; expected "clap"'):
        Clap(other)
    empty = copy(folder, tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"empty has no weights; expected \*\.safetensors or"):
        Clap(empty)
    (empty / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"its config\.json is not valid"):
        Clap(empty)
    (empty / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"empty has no config\.json"):
        Clap(empty)

    def unreachable(name: str, **_: Any) -> str:
        raise LocalEntryNotFoundError(f"Cannot find {name}.")

    monkeypatch.setattr(hub_folders, "snapshot_download", unreachable)
    with pytest.raises(WeightsError, match="owner/nothing: no such folder, and cannot be fetched from the"):
        Clap("owner/nothing")


def test_a_missing_parameter_is_named(folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    incomplete = copy(folder, tmp_path / "incomplete")
    state = load_file(incomplete / "model.safetensors")
    del state["audio_projection.linear2.weight"]
    save_file(state, incomplete / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"1 of the model's parameters are missing, such as audio_proj"):
        Clap(incomplete)
    assert not recwarn.list


def test_wrong_configs_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="config is given, but pretrained is not false"):
        Clap(folder, config=SMALL_CLAP)
    few = {**SMALL_CLAP, "text_config": {**SMALL_CLAP["text_config"], "vocab_size": 50}}
    with pytest.raises(ValueError, match=r"config\.text_config\.vocab_size is 50; .* needs at least 261"):
        Clap(False, config=few)
    with pytest.raises(ValueError, match="config does not describe a CLAP model"):
        Clap(False, config={"text_config": 3})


def test_without_transformers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WeightsError, match=r'package transformers, .*: pip install "\.\[peers\]"'):
        Clap(False, config=SMALL_CLAP)


@pytest.mark.parametrize(
    ("weights", "dataset", "said"),
    [
        (
            "laion/clap-htsat-unfused",
            "ESC-50",
            "399 are in the training split of FSD50K and 94 in",
        ),
        ("laion/clap-htsat-fused", "part of ESC-50 (10 clips, 5 classes)", "399 are"),
        ("laion/larger_clap_general", "UrbanSound8K", "697 are in the training split of FSD50K and 411"),
        ("clap-htsat-fused", "Clotho", "development split of Clotho is training data"),
        (
            "laion/clap-htsat-fused",
            "own (10 samples)",
            "it is unknown whether these samples",
        ),
        ("someone/clap", "ESC-50", "it is unknown"),
    ],
)
def test_known_training_data_are_named_and_unknown_are_said_to_be(
    weights: str, dataset: str, said: str
) -> None:
    found = seen_in_training(weights, dataset)
    assert found.startswith(f"{weights}: ") and said in found and found.endswith(".")
    assert ("ICASSP.md" in found) == ("unknown" not in said)


def test_random_weights_have_seen_nothing(clap: Clap) -> None:
    assert clap.seen_in_training("ESC-50") == ""
    assert clap.weights_files == ()
