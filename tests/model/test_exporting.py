"""Networks exported with torch.export and to ONNX equal the eager ones for any batch size and length."""

import errno
import json
import os
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from model.audioclip import AudioCLIP
from model.commands.cli import main
from model.commands.export import write
from model.esresnet.esresnext import ESResNeXt
from model.exporting import ExportableAudioTower, ExportableZeroShot, export_program, save_onnx
from tests.small_backbone import SMALL_AUDIOCLIP, clips

# torch's own warnings, when it exports to ONNX and when it reads the result
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning"),
]

SHAPES = [(1, 1, 4000), (8, 1, 4000), (1, 1, 6111), (8, 1, 6111), (3, 2, 4321)]


@pytest.fixture(scope="module")
def model() -> AudioCLIP:
    """Build a small AudioCLIP with non-trivial batch norms."""
    torch.manual_seed(0)
    model = AudioCLIP(**SMALL_AUDIOCLIP, pretrained=False)
    for module in model.audio.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model.eval()


def run_onnx(path: Path, audio: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {"audio": audio.numpy()})[0])


@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{}, {"spectrum": "stft"}, {"apply_attention": False}, {"onesided": False}]
)
def test_the_exportable_tower_equals_the_tower(settings: dict[str, object]) -> None:
    torch.manual_seed(0)
    tower = ESResNeXt(n_fft=256, hop_length=100, win_length=200, num_classes=7, **settings).eval()  # type: ignore[arg-type]
    audio = clips(2, 2, 4321)
    assert torch.allclose(ExportableAudioTower(tower)(audio), tower(audio), atol=1e-5)


@torch.no_grad()
def test_exported_towers_equal_the_eager_one_at_any_batch_and_length(
    model: AudioCLIP, tmp_path: Path
) -> None:
    module = ExportableAudioTower(model.audio)
    program = export_program(module).module()
    save_onnx(module, tmp_path / "tower.onnx", metadata={})
    for shape in SHAPES:
        audio = clips(*shape)
        expected = model.encode_audio(audio)
        assert torch.allclose(program(audio), expected, rtol=0, atol=1e-4), shape
        assert torch.allclose(run_onnx(tmp_path / "tower.onnx", audio), expected, rtol=0, atol=1e-4), shape
        assert expected.std() > 0.05, "the outputs are large enough for a meaningful comparison"


@torch.no_grad()
def test_exported_zero_shot_computes_the_probabilities_of_the_model(model: AudioCLIP, tmp_path: Path) -> None:
    names = ["dog", "rain", "siren"]
    write(model, tmp_path / "classes.onnx", class_names=names, template="the sound of {}")
    write(model, tmp_path / "classes.pt2", class_names=names, template="the sound of {}")
    audio = clips(4, 1, 5000)
    cosines = nn.functional.normalize(model.encode_audio(audio), dim=-1) @ (
        model.embed_text(names, "the sound of {}").T
    )
    expected = (model.logit_scale_at.exp().clamp(1, 100) * cosines).softmax(dim=-1)
    assert torch.allclose(run_onnx(tmp_path / "classes.onnx", audio), expected, rtol=0, atol=1e-4)
    program = torch.export.load(tmp_path / "classes.pt2").module()
    assert torch.allclose(program(audio), expected, rtol=0, atol=1e-4)
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "classes.onnx").metadata_props}
    assert json.loads(properties["classes"]) == names and properties["sample_rate"] == "44100"


def test_the_zero_shot_module_has_no_parameters_of_other_towers(model: AudioCLIP) -> None:
    module = ExportableZeroShot(model, ["dog", "rain"])
    assert module.class_features.shape == (2, 16)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_command_exports_a_saved_model(
    model: AudioCLIP, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save_pretrained(tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), str(tmp_path / "tower.pt2")]) == 0
    assert "tower.pt2" in capsys.readouterr().out
    audio = clips(2)
    with torch.no_grad():
        expected = nn.functional.normalize(model.encode_audio(audio), dim=-1)
    program = torch.export.load(tmp_path / "tower.pt2").module()
    assert torch.allclose(program(audio), expected, rtol=0, atol=1e-4)


def test_the_command_reports_missing_weights_and_unknown_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path / "absent.pt"), str(tmp_path / "x.onnx")]) == 1
    assert "absent.pt: no such file" in capsys.readouterr().err
    assert main(["export", "any", str(tmp_path / "x.tflite")]) == 2
    assert "must end in .onnx or .pt2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--classes", "dog"], "--classes has only 'dog'; give two or more, separated by spaces.\n"),
        (["--template", "a {}"], "--template needs --classes.\n"),
        (["--model-args", "[1]"], """'[1]' is not a JSON object such as {"n_fft": 1024}\n"""),
        (["--model-args", "n_fft"], "'n_fft' is not JSON: Expecting value: line 1 column 1 (char 0)\n"),
    ],
)
def test_the_command_explains_wrong_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    try:
        status: object = main(["export", "any", str(tmp_path / "x.onnx"), *words])
    except SystemExit as ended:  # argparse's
        status = ended.code
    assert status == 2 and capsys.readouterr().err.endswith(said)


def test_only_unknown_constructor_arguments_are_mistakes_of_the_user(
    model: AudioCLIP, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path / "saved")
    words = ["export", str(tmp_path / "saved"), str(tmp_path / "x.pt2")]
    assert main([*words, "--model-args", '{"n_ftt": 1024}']) == 1
    assert "--model-args: " in (said := capsys.readouterr().err) and "n_ftt" in said

    def fail(*_: object, **__: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(AudioCLIP, "from_pretrained", fail)
    with pytest.raises(TypeError, match="a bug"):
        main(words)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_failed_export_keeps_the_old_file(
    model: AudioCLIP, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"tower.{suffix}"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        write(model, path)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_without_onnxscript_the_error_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "any", str(tmp_path / "x.onnx")]) == 1
    assert capsys.readouterr().err == 'The package onnxscript is missing: pip install ".[export]"\n'


def test_a_float64_tower_is_refused() -> None:
    tower = ESResNeXt(n_fft=256, hop_length=100, win_length=200, num_classes=7).double()
    with pytest.raises(ValueError, match=r"The tower is torch\.float64; only float32"):
        ExportableAudioTower(tower)
