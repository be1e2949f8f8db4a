"""Image and text towers: built from the published arguments, or taken from open_clip by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from model.audioclip import AudioCLIP
from model.clip import texts
from model.clip.image_input import ImagePreprocessing, preprocess_image
from model.clip.texts import tokenize
from model.clip.towers import find_tagged_weights, image_preprocessing
from model.esresnet import ESResNeXt
from model.weights.releases import WeightsError
from tests.small_backbone import SMALL_AUDIOCLIP

VISION = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "Tiny-ViT": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "Tiny-ViT-text": {
        **{"embed_dim": 20, "custom_text": True, "vision_cfg": VISION},
        "text_cfg": {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "Tiny-coca": {
        **{"embed_dim": 32, "custom_text": True},
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
}
AUDIO: dict[str, Any] = {"n_fft": 256, "hop_length": 100, "win_length": 200}
SENTENCES = ["a dog", "rain on a tin roof"]


@pytest.fixture(scope="module", autouse=True)
def tiny_models(named_towers: Callable[[dict[str, Any]], None]) -> None:
    """Register small models with open_clip for these tests."""
    named_towers(CONFIGS)


def theirs(name: str) -> nn.Module:
    """Build the model with open_clip."""
    from open_clip import coca_model, model

    config = json.loads(json.dumps(CONFIGS[name]))
    kind = model.CustomTextCLIP if config.pop("custom_text", False) else model.CLIP
    network: nn.Module = (coca_model.CoCa if "multimodal_cfg" in config else kind)(**config)
    return network.eval()


def tiny(name: str = "Tiny-ViT", **options: Any) -> AudioCLIP:
    torch.manual_seed(0)
    return AudioCLIP(clip=name, **{"pretrained": False, **AUDIO, **options}).eval()


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def as_array(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", CONFIGS)
def test_features_and_names_of_weights_equal_those_of_open_clip(name: str, tmp_path: Path) -> None:
    reference: Any = theirs(name)
    torch.save(reference.state_dict(), tmp_path / "towers.pt")
    model = tiny(name, pretrained={"clip": str(tmp_path / "towers.pt")})
    assert model.weights_files == (tmp_path / "towers.pt",)
    own = {key for key in model.state_dict() if not key.startswith(("audio.", "logit_scale_a"))}
    assert own == {key for key in reference.state_dict() if not key.startswith("text_decoder.")}
    with torch.inference_mode():
        expected = reference.encode_image(pictures(3), normalize=False)
        assert torch.equal(model.encode_image(pictures(3)), expected)
        tokens = tokenize(SENTENCES, context_length=16)
        assert torch.equal(model.encode_text(SENTENCES), reference.encode_text(tokens, normalize=False))


def moved_by_a_step(model: AudioCLIP, size: int) -> set[str]:
    """Train one step; return the names of the parameters that moved."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    _, loss = model(3000.0 * torch.randn(2, 1, 11025), torch.randn(2, 3, size, size), SENTENCES)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return {name for name, value in model.named_parameters() if not value.equal(before[name])}


def check_embeddings(model: AudioCLIP, dimension: int) -> None:
    """Check that all three modalities are embedded in one space."""
    audio = model.embed_audio(np.full(11025, 500, np.int16), sample_rate=44100)
    embeddings = torch.cat([audio, model.embed_image(as_array(0)), model.embed_text(SENTENCES)])
    assert embeddings.shape == (4, dimension)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_trains_all_three_towers(name: str) -> None:
    model = tiny(name)
    assert not model.text_is_frozen
    moved = {parameter.split(".")[0] for parameter in moved_by_a_step(model, 32)}
    text = {"text"} if "text" in model._modules else {"transformer", "text_projection", "ln_final"}
    assert moved >= {"audio", "visual", "logit_scale", "logit_scale_at", *text}
    check_embeddings(model, CONFIGS[name]["embed_dim"])


def test_a_frozen_text_tower_is_recognised() -> None:
    for name in ("Tiny-ViT", "Tiny-ViT-text"):
        model = tiny(name)
        for key, weight in model.named_parameters():
            weight.requires_grad_(key.startswith(("audio.", "visual.", "logit_scale")))
        assert model.text_is_frozen
        next(iter(model.text_parameters())).requires_grad_(True)
        assert not model.text_is_frozen


def test_recomputed_transformers_have_the_same_gradients() -> None:
    found = []
    for recomputed in (False, True):
        model = tiny().train()
        if recomputed:
            model.recompute_activations()
        kept: dict[int, int] = {}

        def note(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            features = model.encode_image(pictures(16)), model.encode_text(SENTENCES)
        (features[0].square().sum() + features[1].square().sum()).backward()
        gradients = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
        found.append((sum(kept.values()), gradients))
    (plain, expected), (less, gradients) = found
    assert less < 0.6 * plain
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[key])


# Images and texts


def test_images_are_preprocessed_as_in_open_clip() -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    half = (0.5, 0.5, 0.5)
    expected = ImagePreprocessing((224, 224), half, half, "bicubic", "squash")
    assert image_preprocessing("ViT-B-16-SigLIP") == expected
    assert image_preprocessing("ViT-B-32-quickgelu") == ImagePreprocessing()
    assert tiny().image_preprocessing == ImagePreprocessing(size=(32, 32))
    picture = Image.fromarray(as_array(3))
    config = PreprocessCfg(size=224, mean=half, std=half, resize_mode="squash")
    reference = image_transform_v2(config, is_train=False)(picture)
    assert torch.equal(preprocess_image(picture, preprocessing=expected), reference)
    model = tiny()
    prepared = preprocess_image(as_array(3), preprocessing=model.image_preprocessing)
    with torch.inference_mode():
        features = model.encode_image(prepared[None])
    torch.testing.assert_close(model.embed_image(as_array(3)), features / features.norm())


def test_texts_go_through_the_tokenizer_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Words:
        """Imitates a wrapped tokenizer of the Hugging Face Hub: one number per word, then -1."""

        def clean_fn(self, text: str) -> str:
            return text.strip()

        def tokenizer(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [len(word) for word in text.split()]}

        def __call__(self, texts: list[str], context_length: int) -> Tensor:
            rows = [self.tokenizer(text)["input_ids"] for text in texts]
            return torch.tensor([row + [-1] * (context_length - len(row)) for row in rows])

    monkeypatch.setattr("open_clip.get_tokenizer", lambda name: {"Tiny-ViT": Words()}[name])
    texts._tokenizer.cache_clear()
    try:
        assert tiny().tokenize(["a dog", ["rain", "wind"]]).tolist() == [
            [1, 3] + 14 * [-1],
            [5, 4] + 14 * [-1],
        ]
        with pytest.raises(ValueError, match=r"A text has 17 tokens .* takes at most 16: "):
            tiny().tokenize(["a " * 17])
    finally:
        texts._tokenizer.cache_clear()


def test_a_missing_tokenizer_is_an_error_that_names_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("no module named transformers")

    monkeypatch.setattr("open_clip.get_tokenizer", missing)
    texts._tokenizer.cache_clear()
    with pytest.raises(
        ValueError, match=r'"Tiny-ViT", whose tokenizer is not part of open_clip .* transformers'
    ):
        tiny().tokenize(["a dog"])


# Arguments and weights


def test_the_published_arguments_cannot_be_combined_with_a_name() -> None:
    message = (
        r'vision_width is 32, but clip is "Tiny-ViT", .* Omit clip, or else vision_width, transformer_layers'
    )
    with pytest.raises(ValueError, match=message):
        tiny(vision_width=32, transformer_layers=1)


@pytest.mark.parametrize("name", ["ViT-B-32-quickgel", "hf-hub:someone/ViT-B-32", "local-dir:/tmp"])
def test_an_unknown_model_name_gets_suggestions(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf'^clip is "{name}", which is not a model of open_clip; .*ViT-B-32'
    ):
        tiny(name)


def first_weight(model: AudioCLIP) -> float:
    return float(model.visual.get_parameter("conv1.weight").detach().flatten()[0])


def test_each_part_can_start_from_its_own_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    classifier, other = ESResNeXt(num_classes=7, **AUDIO), tiny()
    with torch.no_grad():
        other.visual.get_parameter("conv1.weight").fill_(0.5)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pt")
    torch.save(other.state_dict(), tmp_path / "other.pt")
    parts = {"clip": tmp_path / "other.pt", "audio": tmp_path / "classifier.pt"}
    model = tiny(pretrained=parts)
    assert set(model.weights_files) == set(parts.values())
    for name, value in classifier.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(model.audio.state_dict()[name], value), name
    assert model.audio.fc.out_features == 24
    assert first_weight(model) == 0.5

    again = tiny(pretrained={"audio": tmp_path / "other.pt"})
    for name, value in other.audio.state_dict().items():
        assert torch.equal(again.audio.state_dict()[name], value), name
    assert first_weight(again) != 0.5
    assert first_weight(tiny(pretrained=tmp_path / "other.pt")) == 0.5


@pytest.mark.parametrize(
    ("pretrained", "message"),
    [
        (True, r'pretrained is true, which means the released weights; they do not fit "Tiny-ViT"'),
        ({}, r'pretrained is empty; the allowed parts are "clip" and "audio"'),
        ({"image": "x"}, r'pretrained has "image"; the allowed parts are'),
        (
            {"clip": "openai"},
            r'pretrained\.clip is "openai": no such file, and Tiny-ViT has no weights by that name',
        ),
        ({"clip": "/nowhere/towers.pt"}, r"/nowhere/towers\.pt: no such file"),
        ({"audio": "/nowhere/tower.pt"}, r"/nowhere/tower\.pt: no such file"),
    ],
)
def test_invalid_values_of_pretrained_are_refused(pretrained: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(pretrained=pretrained)


def test_tagged_weights_are_fetched_by_open_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reference = theirs("Tiny-ViT")
    torch.save(reference.state_dict(), tmp_path / "fetched.bin")
    asked = []

    def fetch(weights: dict[str, Any], cache_dir: str | None) -> str:
        asked.append((weights["url"], cache_dir))
        return str(tmp_path / "fetched.bin")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", fetch)
    monkeypatch.setitem(_table(), "Tiny-ViT", {"web": {"url": "https://example.org/tiny.bin"}})
    model = tiny(pretrained={"clip": "web"}, assets=tmp_path)
    assert asked == [("https://example.org/tiny.bin", str(tmp_path))]
    assert torch.equal(model.state_dict()["text_projection"], reference.state_dict()["text_projection"])


def test_if_tagged_weights_cannot_be_fetched_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise RuntimeError("no route to host")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", offline)
    message = (
        r'The weights "openai" of ViT-B-32 cannot be fetched from .*: no route to host\. .* give its path'
    )
    with pytest.raises(WeightsError, match=message):
        find_tagged_weights("ViT-B-32", "openai")
    with pytest.raises(WeightsError, match=r'"dfn5b", which needs different image preprocessing'):
        find_tagged_weights("ViT-H-14", "dfn5b")
    with pytest.raises(WeightsError, match=r"ViT-B-32 has no weights by that name\. It has openai, "):
        find_tagged_weights("ViT-B-32", "opnai")


def _table() -> dict[str, Any]:
    from open_clip import pretrained

    table: dict[str, Any] = pretrained._PRETRAINED
    return table


def test_a_saved_model_with_named_towers_can_be_loaded(tmp_path: Path) -> None:
    model = tiny("Tiny-ViT-text")
    model.save_pretrained(tmp_path)
    again = AudioCLIP.from_pretrained(tmp_path)
    assert again.clip == "Tiny-ViT-text"
    assert torch.equal(again.embed_text(SENTENCES), model.embed_text(SENTENCES))


def test_vit_b_32_builds_trains_a_step_and_embeds_three_modalities_in_one_space() -> None:
    """The real model, with 182 million weights."""
    torch.manual_seed(0)
    model = AudioCLIP(clip="ViT-B-32-quickgelu", pretrained=False)
    moved = moved_by_a_step(model, 224)
    assert moved >= {"audio.conv1.weight", "visual.proj", "text_projection", "logit_scale_ai"}
    check_embeddings(model, 512)


def test_vision_transformers_are_built_too() -> None:
    vision = {"vision_layers": 1, "vision_width": 64, "vision_patch_size": 32}
    model = AudioCLIP(**{**SMALL_AUDIOCLIP, **vision}, pretrained=False).eval()
    assert model.encode_image(torch.zeros(2, 3, 64, 64)).shape == (2, 16)
    assert model.visual.conv1.kernel_size == (32, 32)  # type: ignore[union-attr]


@pytest.mark.parametrize("vision", [{"vision_patch_size": 32}, {"vision_layers": 12}])
def test_arguments_for_neither_kind_of_image_tower_are_refused(vision: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"vision_layers is .* a ResNet has"):
        AudioCLIP(**{**SMALL_AUDIOCLIP, **vision}, pretrained=False)
