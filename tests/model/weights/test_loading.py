"""Weights are read and loaded, and unsuitable ones are refused."""

import hashlib
import io
import json
import math
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.audioclip import AudioCLIP
from model.weights.files import KNOWN_ARCHIVES, read_state_dict
from model.weights.loading import load_weights, rename_to_fit
from model.weights.releases import WeightsError, find_weights
from tests.small_backbone import SMALL_AUDIOCLIP


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


STATE = {name: torch.full_like(tensor, 2) for name, tensor in network().state_dict().items()}


def save_torchscript(path: Path) -> None:
    module = network()
    module.load_state_dict(STATE)
    module.register_buffer("context_length", torch.tensor(77))
    torch.jit.script(module).save(path)


def make_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a TorchScript archive to the known ones."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr("model.weights.files.KNOWN_ARCHIVES", frozenset({sha256}))


WRITERS: dict[str, Callable[[Path], object]] = {
    "plain.pt": lambda path: torch.save(STATE, path),
    "old_format.pth": lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False),
    "parallel.pt": lambda path: torch.save({f"module.{name}": x for name, x in STATE.items()}, path),
    "checkpoint.pt": lambda path: torch.save({"model": STATE, "optimizer": {"lr": 0.1}, "epoch": 3}, path),
    "nested.pt": lambda path: torch.save({"model": {"name": "RN50"}, "state_dict": {"model": STATE}}, path),
    "tensors.bin": lambda path: save_file(STATE, path),
    "pickle.safetensors": lambda path: torch.save(STATE, path),
    "half.pt": lambda path: torch.save({name: x.half() for name, x in STATE.items()}, path),
    "clip.pt": save_torchscript,
    "tensors.safetensors": lambda path: save_file(STATE, path),
}


def test_the_known_archives_are_openais() -> None:
    """The addresses in open_clip contain the sha256 of each archive."""
    from open_clip.pretrained import _PRETRAINED

    urls = {tags["openai"]["url"] for tags in _PRETRAINED.values() if "url" in tags.get("openai", {})}
    published = {url.split("/")[-2] for url in urls if "openaipublic" in url}
    assert len(published) == 9
    assert published == KNOWN_ARCHIVES


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](tmp_path / name)
    make_known(tmp_path / name, monkeypatch)
    module = network()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = read_state_dict(tmp_path / name)
    report = load_weights(module, state, source=name)
    assert len(report.loaded) == 7
    assert not (report.missing or report.unexpected or report.misshapen)
    assert all(torch.equal(tensor, STATE[key]) for key, tensor in module.state_dict().items())
    assert module[0].weight.dtype == torch.float32
    assert str(report) == f"{name}: 7 of the model's 7 entries match"


def safetensors_header(entries: dict[str, object]) -> bytes:
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save([1, 2], path), "contains a list, not a state dict"),
        (lambda path: torch.save({}, path), "contains an empty dict, not a state dict"),
        (
            lambda path: torch.save({"generator": STATE, "epoch": 3}, path),
            r'no state dict, .*; it has generator, epoch\. .* save only that: .*\["NAME"\], new_path',
        ),
        (lambda path: torch.save({"epoch": 3, "w": torch.ones(1)}, path), "no state dict, .*; it has epoch"),
    ],
)
def test_unusable_files_are_named(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    write(path)
    with pytest.raises(WeightsError, match=rf"weights\.pt: .*{message}"):
        read_state_dict(path)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 537302068\n"


def zip_of(name: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, "")
    return content.getvalue()


OTHER_KINDS: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "an empty file: its download or copy failed. Fetch it again."),
    "zeros": (bytes(5000), "a file of zeros"),
    "Git LFS": (LFS_POINTER, "a Git LFS pointer, not the file that it stands for. Run `git lfs pull`"),
    "git-annex": (b"/annex/objects/SHA256E-s5--00.pt\n", "a git-annex pointer"),
    "HTML": (b"<!DOCTYPE html>\n<html>" + b" " * 3000, "an HTML page: its download failed"),
    "HTML after a comment": (b"\n<!-- page --><HTML lang='de'>\xfc", "an HTML page"),
    "JSON": (b'{"Model": {"class": "x"}}', 'JSON ("{"Model": {"class": "x"}}"), not a weights file'),
    "a short answer": (
        b"404: Not Found",
        'text ("404: Not Found"), not a weights file. Name one, or fetch it again.',
    ),
    "a zip archive": (
        zip_of("AudioCLIP.pt"),
        "a zip archive without torch weights; it contains AudioCLIP.pt. If",
    ),
    "half of an archive": (zip_of("archive/data.pkl")[:40], "cut short: the beginning of an archive"),
    "gzip": (b"\x1f\x8b\x08\x00", "a gzip archive. Unpack it"),
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "bin"])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_file_of_another_kind_is_named(kind: str, suffix: str, tmp_path: Path) -> None:
    content, message = OTHER_KINDS[kind]
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(f"{path} is {message}")):
        read_state_dict(path)


def test_an_exported_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "tower.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    with pytest.raises(WeightsError, match=r"tower\.onnx is an exported network, which can only be run\."):
        read_state_dict(tmp_path / "tower.onnx")


def test_a_dangling_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").symlink_to("store/weights.pt")
    with pytest.raises(
        WeightsError, match=r"no such file: it is a link to store/weights\.pt, which does not exist"
    ):
        read_state_dict(tmp_path / "weights.pt")


def test_a_pointer_in_place_of_frozen_weights_is_named(tmp_path: Path) -> None:
    torch.save({"model": STATE, "frozen_weights": "0" * 64}, tmp_path / "last_epoch-1.pt")
    (tmp_path / "frozen_weights.pt").write_bytes(LFS_POINTER)
    with pytest.raises(WeightsError, match=r"frozen_weights\.pt\. That file is a Git LFS pointer"):
        read_state_dict(tmp_path / "last_epoch-1.pt")


def test_a_pointer_in_place_of_a_released_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "CLIP.pt").write_bytes(LFS_POINTER)
    with pytest.raises(WeightsError, match=r"CLIP\.pt has .* It is a Git LFS pointer.*git lfs pull"):
        find_weights("CLIP", assets=tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.audio.a", "module.b"], {"audio.a", "b"}),
        (["_orig_mod.audio.a", "_orig_mod.b"], {"audio.a", "b"}),
        (["model._orig_mod.module.audio.a", "model._orig_mod.module.b"], {"audio.a", "b"}),
        (["module.model.model._orig_mod.audio.a", "module.model.model._orig_mod.b"], {"audio.a", "b"}),
        (["audio._orig_mod.a", "visual._orig_mod.layer1._orig_mod.b"], {"audio.a", "visual.layer1.b"}),
        (["audio.module.a", "visual.b"], {"audio.a", "visual.b"}),
        (["n_averaged", "module.audio.a", "module.b"], {"audio.a", "b"}),
        (["visual.trunk.module.a", "b"], {"visual.trunk.module.a", "b"}),
    ],
)
def test_prefixes_of_wrappers_are_removed(names: list[str], expected: set[str]) -> None:
    state = {name: torch.ones(1) for name in names}
    assert set(rename_to_fit(state, expected, source="x.pt")) == expected
    # Names are also shortened for the message about another model.
    assert set(rename_to_fit(state, set(), source="x.pt")) == expected


def test_non_finite_weights_cause_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    module = nn.Linear(2, 2)
    state = {"weight": torch.tensor([[1, math.nan], [0, 1]]), "bias": torch.zeros(2)}
    load_weights(module, state, source="x.pt")
    assert caplog.messages == [
        "x.pt: 1 tensors contain NaN or infinite values, such as weight; so will the embeddings."
    ]


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        # "model" is a module of the network, not a wrapper.
        (
            ["model.a", "b"],
            {"model.a", "b"},
            {"model.a", "b"},
        ),
        (["model.audio.a", "model.b", "loss.weight"], {"audio.a", "b"}, {"audio.a", "b", "loss.weight"}),
        (["a", "b", "model.a"], {"a", "b"}, {"a", "b", "model.a"}),
        (["net.module.a", "net.module.b", "step"], {"a", "b"}, {"a", "b", "step"}),
        (["_forward_module.network.a", "_forward_module.network.b"], {"a", "b"}, {"a", "b"}),
    ],
)
def test_prefixes_are_removed_even_if_other_entries_have_none(
    names: list[str], known: set[str], expected: set[str]
) -> None:
    """Lightning modules have further entries for losses and metrics."""
    state = {name: torch.ones(1) for name in names}
    assert set(rename_to_fit(state, known, source="x.pt")) == expected


class Foreign(nn.Module):
    """A module whose own names look like those of wrappers."""

    def __init__(self, *, compiled: bool = False) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.enc = nn.Module()
        self.model.enc.module = nn.Linear(2, 2)
        if compiled:
            self.model.add_module("_orig_mod", nn.Linear(2, 1))
            self.model.enc.register_buffer("n_averaged", torch.ones(1))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "module._orig_mod.model.model."])
def test_names_in_a_module_are_kept_even_if_they_look_like_wrappers(
    prefix: str, compiled: bool, tmp_path: Path
) -> None:
    saved, module = Foreign(compiled=compiled), Foreign(compiled=compiled)
    state = {f"{prefix}{name}": value for name, value in saved.state_dict().items()}
    if prefix.startswith("module."):
        state["n_averaged"] = torch.tensor(3)
    torch.save(state, tmp_path / "weights.pt")
    report = load_weights(module, read_state_dict(tmp_path / "weights.pt"), source="weights.pt")
    assert set(report.loaded) == set(saved.state_dict())
    for name, value in module.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name])


def test_a_wrapper_prefix_and_an_equal_own_name_can_coexist() -> None:
    known = {"enc.module.weight", "dec.weight"}
    state = {"enc.module.weight": torch.ones(1), "dec.module.weight": torch.zeros(1)}
    assert rename_to_fit(state, known, source="x.pt") == {
        "enc.module.weight": torch.ones(1),
        "dec.weight": torch.zeros(1),
    }


def test_two_entries_for_one_name_are_an_error() -> None:
    state = {"a._orig_mod.b": torch.ones(1), "a.b": torch.ones(1)}
    with pytest.raises(WeightsError, match=r'x\.pt: two of its entries are "a\.b" without their wrappers'):
        load_weights(network(), state, source="x.pt")


@pytest.mark.parametrize("wrapping", ["parallel", "averaged", "lightning"])
def test_wrapped_weights_load_into_an_audioclip(
    wrapping: str, small_model: AudioCLIP, tmp_path: Path
) -> None:
    state = dict(small_model.state_dict())
    content: dict[str, object] = {
        "parallel": {"model_state_dict": {f"module._orig_mod.{name}": x for name, x in state.items()}},
        "averaged": dict(torch.optim.swa_utils.AveragedModel(small_model).state_dict()),
        "lightning": {"epoch": 3, "state_dict": {f"model.{name}": x for name, x in state.items()}},
    }[wrapping]
    torch.save(content, tmp_path / "model.pt")
    loaded = AudioCLIP.from_pretrained(tmp_path / "model.pt", **SMALL_AUDIOCLIP)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


class Intruder(nn.Module):
    """Writes a file when its archive is loaded: TorchScript calls `__setstate__`."""

    def __init__(self, canary: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.canary = canary

    def forward(self, value: Tensor) -> Tensor:
        return value * self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, str, bool]:
        return self.weight, self.canary, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
        self.canary = state[1]
        self.training = state[2]
        self.weight = torch.from_file(state[1], True, 4).fill_(7.0)  # type: ignore[assignment]


def test_code_of_a_torchscript_archive_is_not_run(tmp_path: Path) -> None:
    path, canary = tmp_path / "weights.pt", tmp_path / "canary"
    torch.jit.script(Intruder(str(canary))).save(path)
    with pytest.raises(WeightsError, match=r"weights\.pt: an unknown TorchScript archive"):
        read_state_dict(path)
    assert not canary.exists()
    torch.jit.load(path)
    assert canary.exists()  # the archive really is hostile


class Touch:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.canary,))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_of_a_pickle_is_not_run(zipped: bool, tmp_path: Path) -> None:
    path, canary = tmp_path / "weights.pt", tmp_path / "canary"
    torch.save({"model": Touch(canary)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="not loaded because that would run code"):
        read_state_dict(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 90_000_000) + b"{",
        safetensors_header({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
    ],
)
def test_an_absurd_safetensors_header_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.safetensors: not a safetensors file"):
        read_state_dict(path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("plain.pt", "clip.pt", "tensors.safetensors"):
        WRITERS[name](tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(WeightsError, match=re.escape(name)):
            read_state_dict(tmp_path / name)
    with pytest.raises(WeightsError, match=r"nothing\.pt: no such file"):
        read_state_dict(tmp_path / "nothing.pt")


def test_every_gap_is_an_error_unless_named() -> None:
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state: dict[str, Tensor] = {**STATE, "head.weight": torch.ones(1), "1.weight": torch.ones(5)}
    del state["0.bias"]
    with pytest.raises(WeightsError) as caught:
        load_weights(module, state, source="x.pt")
    assert str(caught.value) == (
        "Weights do not fit Sequential. x.pt: 5 of the model's 7 entries match\n"
        "  1 missing: 0.bias\n"
        "  1 unexpected: head.weight\n"
        "  1 misshapen: 1.weight [5] for [3]"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())

    allowed = {"allow_missing": (r"0\.bias", r"1\.wei.*"), "allow_unexpected": (r"head\..*",)}
    report = load_weights(module, state, source="x.pt", **allowed)
    assert report.missing == ("0.bias",)
    assert report.unexpected == ("head.weight",)
    assert report.misshapen == ("1.weight [5] for [3]",)
    assert "1 missing: 0.bias" in str(report)
    assert torch.equal(module.state_dict()["0.weight"], STATE["0.weight"])
    assert torch.equal(module.state_dict()["0.bias"], before["0.bias"])

    with pytest.raises(WeightsError, match=r"1 missing: 0\.bias"):
        load_weights(module, state, source="x.pt", **{**allowed, "allow_missing": ("bias", r"1\..*")})


def test_entries_without_learned_values_may_be_missing() -> None:
    state = {name: tensor for name, tensor in STATE.items() if "num_batches" not in name}
    assert load_weights(network(), state, source="x.pt").missing == ("1.num_batches_tracked",)


def test_weights_of_another_model_are_refused_in_a_few_lines(small_model: AudioCLIP) -> None:
    from torchvision.models import resnet18

    with pytest.raises(WeightsError) as caught:
        load_weights(small_model, resnet18().state_dict(), source="resnet18.pt")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Weights do not fit AudioCLIP. resnet18.pt: 0 of the model's")
    assert all(len(line) < 300 and "... and" in line for line in lines[1:])


def test_a_model_is_loaded_from_its_file_in_eval_mode(small_model: AudioCLIP, tmp_path: Path) -> None:
    torch.save({f"module.{k}": v for k, v in small_model.state_dict().items()}, tmp_path / "model.pt")
    loaded = AudioCLIP.from_pretrained(tmp_path / "model.pt", device="cpu", **SMALL_AUDIOCLIP)
    assert not any(module.training for module in loaded.modules())
    audio = torch.full((1, 1, 2000), 500.0)
    torch.testing.assert_close(loaded.embed_text(["dog"]), small_model.embed_text(["dog"]))
    torch.testing.assert_close(loaded.encode_audio(audio), small_model.encode_audio(audio))
    built = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=tmp_path / "model.pt")
    assert built.training


def test_pretrained_true_loads_clip_and_the_audio_classifier(
    small_model: AudioCLIP, tmp_path: Path, take_for_released: Callable[[Path], None]
) -> None:
    state = small_model.state_dict()
    clip = {k: v for k, v in state.items() if not k.startswith(("audio.", "logit_scale_a"))}
    torch.save({**clip, "input_resolution": torch.tensor(64)}, tmp_path / "CLIP.pt")
    audio = {k.removeprefix("audio."): v for k, v in state.items() if k.startswith("audio.")}
    audio |= {"fc.weight": torch.ones(527, 2048), "fc.bias": torch.ones(527)}
    torch.save(audio, tmp_path / "ESRNXFBSP.pt")
    take_for_released(tmp_path / "CLIP.pt")
    take_for_released(tmp_path / "ESRNXFBSP.pt")
    model = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=True, assets=tmp_path)
    for name, tensor in model.state_dict().items():
        assert name.startswith("audio.fc.") or torch.equal(tensor, state[name]), name

    parts = {"clip": ("clip.pt", clip), "audio": ("audio.pt", audio)}
    for name, content in parts.values():
        torch.save({"state_dict": {f"model.{key}": x for key, x in content.items()}}, tmp_path / name)
    wrapped = {part: tmp_path / name for part, (name, _) in parts.items()}
    model = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=wrapped)
    for name, tensor in model.state_dict().items():
        assert name.startswith("audio.fc.") or torch.equal(tensor, state[name]), name

    with pytest.raises(WeightsError, match=r"Weights do not fit AudioCLIP.*missing: audio\.|missing: logit"):
        AudioCLIP(**SMALL_AUDIOCLIP, pretrained=tmp_path / "CLIP.pt")
