"""The description of a checkpoint's model, in the file itself or in the protocol of its run."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ignite_trainer.checkpoints import checkpoint_files
from model.audioclip import AudioCLIP
from model.weights.built_from import built_from
from model.weights.releases import WeightsError
from tests.small_backbone import SMALL_AUDIOCLIP

PATH = "model.audioclip.AudioCLIP"
BEST = "run/checkpoints/best_accuracy_epoch-3_0.9000.pt"


@pytest.fixture(scope="module")
def arguments() -> dict[str, Any]:
    """Return arguments as in a protocol."""
    plain: dict[str, Any] = json.loads(json.dumps(SMALL_AUDIOCLIP))
    return {**plain, "pretrained": True, "assets": "/nowhere", "hop_length": 120}


@pytest.fixture(scope="module")
def trained(arguments: dict[str, Any]) -> AudioCLIP:
    return AudioCLIP(**{**arguments, "pretrained": False})


@pytest.fixture(scope="module")
def save(arguments: dict[str, Any], trained: AudioCLIP) -> Callable[..., None]:
    """Return a function that saves the model as the trainer does, described with changed arguments."""

    def save(path: Path, **changes: Any) -> None:
        described = {"class": PATH, "args": {**arguments, **changes}}
        checkpoint_files.save_weights(path, trained.state_dict(), built_from=described)

    return save


def is_same(one: AudioCLIP, other: AudioCLIP) -> bool:
    state = other.state_dict()
    return one.audio.hop_length == other.audio.hop_length and all(
        torch.equal(value, state[name]) for name, value in one.state_dict().items()
    )


def write_protocol(folder: Path, path: str, args: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "protocol.json").write_text(json.dumps({"Model": {"class": path, "args": args}}))


def test_the_trainers_weights_describe_their_model(
    save: Callable[..., None], trained: AudioCLIP, tmp_path: Path
) -> None:
    save(tmp_path / "mine.pt")
    loaded = AudioCLIP.from_pretrained(tmp_path / "mine.pt")
    assert not loaded.training and is_same(loaded, trained)
    assert loaded.weights_files == (tmp_path / "mine.pt",)


@pytest.mark.parametrize(
    ("name", "warns"),
    [
        ("best_accuracy_epoch-0_0.9000.pt", True),
        ("best_accuracy_epoch-10_0.9000.pt", False),
        ("last_epoch-1.pt", False),
    ],
)
def test_weights_of_epoch_0_are_loaded_with_a_warning(
    name: str,
    warns: bool,
    save: Callable[..., None],
    trained: AudioCLIP,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save(tmp_path / name)
    assert is_same(AudioCLIP.from_pretrained(tmp_path / name), trained)
    start = "holds the weights from before the first step (epoch 0); they have learned nothing."
    expected = f"{tmp_path / name} {start}"
    assert caplog.messages == ([expected] if warns else [])


def test_a_saved_state_is_still_a_plain_state_dict(trained: AudioCLIP, tmp_path: Path) -> None:
    checkpoint_files.save_weights(tmp_path / "best.pt", trained.state_dict(), built_from={"class": PATH})
    state = torch.load(tmp_path / "best.pt", weights_only=True)
    assert type(state) is OrderedDict and state.keys() == trained.state_dict().keys()
    trained.load_state_dict(state)


@pytest.mark.parametrize("name", [BEST, "run/best.pt", "run/checkpoints/best.safetensors"])
def test_the_protocol_of_the_run_describes_an_older_checkpoint(
    name: str, arguments: dict[str, Any], trained: AudioCLIP, tmp_path: Path
) -> None:
    write_protocol(tmp_path / "run", PATH, arguments)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(trained.state_dict(), path)
    assert is_same(AudioCLIP.from_pretrained(path), trained)
    found = built_from(path)
    assert found and found.path == PATH and found.source == tmp_path / "run/protocol.json"
    assert not {"pretrained", "assets"} & found.args.keys()


def test_the_description_in_the_file_overrides_the_protocol(
    save: Callable[..., None], trained: AudioCLIP, tmp_path: Path
) -> None:
    write_protocol(tmp_path, PATH, {"embed_dim": 3})
    save(tmp_path / "best.pt")
    assert is_same(AudioCLIP.from_pretrained(tmp_path / "best.pt"), trained)


def test_given_arguments_override_the_described_ones(
    arguments: dict[str, Any], trained: AudioCLIP, tmp_path: Path
) -> None:
    write_protocol(tmp_path, PATH, arguments)
    torch.save(trained.state_dict(), tmp_path / "best.pt")
    assert AudioCLIP.from_pretrained(tmp_path / "best.pt", hop_length=90).audio.hop_length == 90


@pytest.mark.parametrize("where", ["run", "run/checkpoints", ".", "experiment of a sweep"])
def test_a_folder_stands_for_its_best_weights_and_stderr_names_them(
    where: str,
    arguments: dict[str, Any],
    trained: AudioCLIP,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / ("sweep/folds" if "sweep" in where else "")
    write_protocol(folder / "run", PATH, arguments)
    best = {"label": "Accuracy", "value": 0.9, "epoch": 3, "checkpoint": Path(BEST).name}
    result = {"finished": "2026-01-01T00:00:00+00:00", "best": [best], "checkpoint": None}
    (folder / "run/result.json").write_text(json.dumps(result))
    (folder / "run/checkpoints").mkdir()
    torch.save(trained.state_dict(), folder / BEST)
    source = tmp_path / "sweep" if "sweep" in where else tmp_path / where
    assert is_same(AudioCLIP.from_pretrained(source), trained)
    assert capsys.readouterr().err == f"{source}: {folder / BEST}\n"


def test_a_loaded_model_is_saved_with_its_arguments(
    arguments: dict[str, Any], trained: AudioCLIP, tmp_path: Path
) -> None:
    write_protocol(tmp_path, PATH, arguments)
    torch.save(trained.state_dict(), tmp_path / "best.pt")
    AudioCLIP.from_pretrained(tmp_path / "best.pt").save_pretrained(tmp_path / "hub")
    assert is_same(AudioCLIP.from_pretrained(tmp_path / "hub"), trained)


def test_weights_of_another_class_get_a_message_that_says_what_to_call(tmp_path: Path) -> None:
    from model.esresnet import ESResNeXt

    args = {"n_fft": 256, "hop_length": 100, "win_length": 200, "num_classes": 4, "pretrained": False}
    tower = ESResNeXt(**args)  # type: ignore[arg-type]
    write_protocol(tmp_path, "model.esresnet.ESResNeXt", args)
    torch.save(tower.state_dict(), tmp_path / "best.pt")
    with pytest.raises(WeightsError) as caught:
        AudioCLIP.from_pretrained(tmp_path / "best.pt")
    message, _, call = str(caught.value).partition(" Build ESResNeXt instead: ")
    assert message == f"{tmp_path / 'best.pt'} holds weights of model.esresnet.ESResNeXt, not of AudioCLIP."
    names: dict[str, Any] = {}
    exec(call, names)  # the advice in the message must work
    assert not names["model"].training and names["model"].hop_length == 100
    assert all(
        torch.equal(value, tower.state_dict()[key]) for key, value in names["model"].state_dict().items()
    )


def test_weights_of_a_foreign_class_get_a_message_that_says_where_the_class_is(tmp_path: Path) -> None:
    write_protocol(tmp_path, "mine.nets.Net", {"width": 3})
    torch.save({"weight": torch.zeros(1)}, tmp_path / "best.pt")
    with pytest.raises(
        WeightsError, match=r"Build Net\(width=3\) from mine\.nets instead, and load the file with"
    ):
        AudioCLIP.from_pretrained(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"protocol\.json: not the protocol of a run \(.*Repair or remove it"),
        ("[]", r"protocol\.json does not say which model was trained"),
        ('{"Model": {"class": 3}}', r"protocol\.json does not say which model was trained"),
        (
            f'{{"Model": {{"class": "{PATH}", "args": {{"depth": 3}}}}}}',
            r'AudioCLIP was built with the argument "depth", which this version lacks',
        ),
    ],
)
def test_an_invalid_protocol_next_to_the_weights_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "protocol.json").write_text(text)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "best.pt")
    with pytest.raises(WeightsError, match=message):
        AudioCLIP.from_pretrained(tmp_path / "best.pt")


def test_a_crafted_description_cannot_make_another_file_be_read(tmp_path: Path) -> None:
    described = {"class": PATH, "args": {"pretrained": "/etc/passwd", "assets": "/etc"}}
    checkpoint_files.save_weights(tmp_path / "best.pt", {"weight": torch.zeros(1)}, built_from=described)
    found = built_from(tmp_path / "best.pt")
    assert found and found.args == {}


def test_without_a_description_the_message_asks_for_the_arguments(
    small_model: AudioCLIP, tmp_path: Path
) -> None:
    torch.save(small_model.state_dict(), tmp_path / "best.pt")
    with pytest.raises(
        WeightsError, match=r"misshapen(.|\n)*does not say which arguments its model was built"
    ):
        AudioCLIP.from_pretrained(tmp_path / "best.pt")


def argument_warnings(caught: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about arguments that differ from training."""
    found = [record.getMessage() for record in caught.records if record.name == "model.weights.built_from"]
    caught.clear()
    return found


@pytest.fixture(scope="module")
def best(save: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "best.pt"
    save(path, transformer_heads=2)
    return path


def test_an_argument_that_differs_from_training_causes_a_warning(
    arguments: dict[str, Any], best: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {**arguments, "assets": None, "pretrained": best}
    AudioCLIP(**given)
    assert argument_warnings(caplog) == []
    AudioCLIP(**{**given, "vision_layers": tuple(arguments["vision_layers"]), "multilabel": False})
    assert argument_warnings(caplog) == []
    AudioCLIP(**{**given, "hop_length": 90, "normalized": False, "transformer_heads": 4})
    assert argument_warnings(caplog) == [
        f"{best} was trained with different arguments: transformer_heads is 4, but was 2; hop_length is 90, "
        "but was 120; normalized is False, but was True. Pass transformer_heads=2, hop_length=120, "
        "normalized=True (in a protocol, under Model.args), unless you intend the change."
    ]
    AudioCLIP.from_pretrained(best, spec_height=64)
    assert [text.partition(". Pass")[0] for text in argument_warnings(caplog)] == [
        f"{best} was trained with different arguments: spec_height is 64, but was -1"
    ]


def test_if_weights_are_for_one_tower_only_its_arguments_are_compared(
    arguments: dict[str, Any], best: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {**arguments, "assets": None, "hop_length": 90, "transformer_heads": 4}
    for part, name in (("clip", "transformer_heads"), ("audio", "hop_length")):
        AudioCLIP(**{**given, "pretrained": {part: best}})
        (text,) = argument_warnings(caplog)
        assert f"arguments: {name} is" in text and ";" not in text


def test_a_separate_audio_tower_is_compared_too(best: Path, caplog: pytest.LogCaptureFixture) -> None:
    from model.esresnet import ESResNeXt

    ESResNeXt(n_fft=256, hop_length=90, win_length=200, num_classes=16, pretrained=best)
    assert ["hop_length is 90, but was 120" in text for text in argument_warnings(caplog)] == [True]


def test_differing_arguments_are_named_before_the_weights_are_refused(
    arguments: dict[str, Any], best: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(WeightsError, match="misshapen"):
        AudioCLIP(**{**arguments, "assets": None, "transformer_width": 64, "pretrained": best})
    assert ["transformer_width is 64, but was 32" in text for text in argument_warnings(caplog)] == [True]
