"""Every shipped protocol is complete, and published protocols run with only a few overrides."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from toy_research.records import events

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.overrides import split_overrides
from ignite_trainer.protocol.reading import read_protocol
from model.esresnet import ESResNeXt
from model.weights.loading import read_state_dict
from tests.miniatures import write_us8k
from tests.system.conftest import DEFAULTS, QUIET, ROOT, SHIPPED, Command
from utils.datasets import ESC50, MadeSounds

# Overrides that only make AudioCLIP and the clips small.
SMALL = """
    --Model.args.embed_dim 32 --Model.args.image_resolution 32 --Model.args.vision_layers 1 1 1 1
    --Model.args.vision_width 8 --Model.args.context_length 12 --Model.args.transformer_width 32
    --Model.args.transformer_heads 2 --Model.args.transformer_layers 1
    --Model.args.spec_height 32 --Model.args.spec_width 32
    --Transforms.3.args.out_len 13230 --Transforms.4.args.out_len 13230
    --Transforms.6.args.out_len 13230 --Transforms[-1].args.out_len 13230
""".split()  # noqa: SIM905
# Overrides for small batches, loaded without worker processes.
BRIEF = ["-e", "1", "-b", "8", "-w", "0", "-W", "0", "--Model.args.pretrained", "false"]


def published(**dataset_args: Any) -> dict[str, Any]:
    """Return a protocol with the sections and keys of the published files, including placeholders."""
    transforms: list[dict[str, Any]] = [
        {"class": "utils.transforms.ToTensor1D", "args": {}},
        {"class": "utils.transforms.RandomFlip", "args": {"p": 0.5}, "test": False},
        {"class": "utils.transforms.RandomScale", "args": {"max_scale": 1.5}, "test": False},
        {"class": "utils.transforms.RandomPadding", "args": {"out_len": 220500}, "test": False},
        {"class": "utils.transforms.RandomCrop", "args": {"out_len": 220500}, "test": False},
        {
            "class": "utils.transforms.RandomNoise",
            "args": {"snr_min_db": 10.0, "snr_max_db": 120.0, "p": 0.25},
            "test": False,
        },
        {
            "class": "utils.transforms.RandomPadding",
            "args": {"out_len": 220500, "train": False},
            "train": False,
        },
        {"class": "utils.transforms.RandomCrop", "args": {"out_len": 220500, "train": False}, "train": False},
    ]
    return {
        "Visdom": {"host": None, "port": None, "env_path": None},
        "Setup": {
            "name": "Multimodal-Audio",
            "suffix": "CV1",
            "batch_train": 64,
            "batch_test": 64,
            "workers_train": 4,
            "workers_test": 4,
            "epochs": 50,
            "log_interval": 10,
            "saved_models_path": "/path/to/saved/models",
        },
        "Model": {
            "class": "model.audioclip.AudioCLIP",
            "args": {"multilabel": False, "pretrained": "/path/to/assets/AudioCLIP.pt"},
        },
        "Optimizer": {
            "class": "torch.optim.SGD",
            "args": {"lr": 5e-5, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        },
        "Scheduler": {"class": "torch.optim.lr_scheduler.ExponentialLR", "args": {"gamma": 0.96}},
        "Dataset": {
            "class": "utils.datasets.ESC50",
            "args": {
                "dl_shuffle": True,
                "root": "/path/to/ESC50",
                "sample_rate": 44100,
                "fold": 1,
                "training": {"key": "train", "yes": True, "no": False},
                **dataset_args,
            },
        },
        "Transforms": transforms,
        "Metrics": {
            "Performance": {
                "window_name": None,
                "x_label": "#Epochs",
                "y_label": "Accuracy",
                "width": 1890,
                "height": 416,
                "lines": [
                    {
                        "line_label": "Val. Acc.",
                        "class": "ignite.metrics.Accuracy",
                        "args": {},
                        "is_checkpoint": True,
                    }
                ],
            }
        },
    }


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a data set in ESC-50's layout: 6 classes with one short clip in each of 5 folds."""
    folder = tmp_path_factory.mktemp("sounds")
    made = MadeSounds(folder / "ESC-50", seconds=0.3, clips_per_class_and_fold=1, cache=folder / "cache")
    return made.root


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_protocol_names_classes_with_arguments_they_have(path: Path) -> None:
    protocol = load(path, defaults=DEFAULTS)
    blueprint = draw(protocol)
    assert blueprint.split.key == "train"
    assert protocol.setup.saved_models_path == "results"


def test_the_linear_probe_omits_its_random_result_from_the_table() -> None:
    table = read_protocol(ROOT / "protocols/audioclip-esc50-probe.json")["Table"]
    assert table == {"listed": False, "published": []}


def test_the_shipped_esc50_protocol_is_the_published_one() -> None:
    shipped = json.loads((ROOT / "protocols/audioclip-esc50.json").read_text())
    expected = published()
    del shipped["$schema"]
    del shipped["Table"]  # the published accuracy
    placeholders = [
        ("Setup", "saved_models_path"),
        ("Model", "args", "pretrained"),
        ("Dataset", "args", "root"),
    ]
    for *path, key in placeholders:
        for protocol in (shipped, expected):
            place = protocol
            for step in path:
                place = place[step]
            del place[key]
    assert shipped == expected


def test_the_published_protocol_matches_the_schema() -> None:
    validator = Draft202012Validator(json.loads((ROOT / "protocols/schema.json").read_text()))
    assert list(validator.iter_errors(published())) == []


def test_the_fast_esc50_protocol_differs_from_the_faithful_one_only_in_arithmetic() -> None:
    fast, faithful = (read_protocol(ROOT / f"protocols/audioclip-esc50{kind}.json") for kind in ("-fast", ""))
    fast_setup, faithful_setup = fast.pop("Setup"), faithful.pop("Setup")
    assert fast == faithful
    assert fast_setup == {
        **faithful_setup,
        **{"name": "Multimodal-Audio-Fast", "precision": "bf16", "compile": True},
    }


def test_a_published_protocol_runs_with_only_a_few_overrides(
    command: Command, sounds: Path, tmp_path: Path
) -> None:
    words = ["--Dataset.args.root", sounds, "-S", "--Setup.seed", "1"]
    assert command(published(), *BRIEF, *SMALL, *QUIET, *words).status == 0
    [folder] = (tmp_path / "results/Multimodal-Audio").iterdir()
    assert folder.name.endswith("_CV1_fold-1_seed-1")
    evaluated = [event for event in events(folder) if event["event"] == "evaluation"]
    assert [(event["epoch"], event["split"]) for event in evaluated] == [(0, "test"), (1, "test")]
    assert all(0 <= event["metrics"]["Val. Acc."] <= 1 for event in evaluated)
    best = next((folder / "checkpoints").glob("best_val-acc_epoch-1_*.pt"))
    last = read_state_dict(folder / "checkpoints/last_epoch-1.pt")
    for name, tensor in read_state_dict(best).items():
        assert torch.equal(tensor, last[name])


def test_two_runs_with_one_seed_end_with_equal_weights(command: Command, tmp_path: Path) -> None:
    """The quickstart with less data: same classes, transforms, optimizer and parameter groups."""
    weights = []
    for workers in ("0", "2"):
        root = tmp_path / workers
        words = ["-M", root, "-e", "2", "-S", "-b", "6", "-w", workers, "--Dataset.args.seconds", "0.3"]
        words += ["--Dataset.args.clips_per_class_and_fold", "1"]
        assert command("quickstart", *words, *SMALL, *QUIET).status == 0
        weights.append(read_state_dict(next(root.rglob("last_epoch-2.pt"))))
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_a_validation_fold_chooses_the_epoch_and_clips_are_in_one_part_only(
    command: Command, sounds: Path, tmp_path: Path
) -> None:
    words = ["--Dataset.args.root", sounds, "--Dataset.args.validation_fold", "next", "-b", "6", "-e", "2"]
    assert command("small-esc50", *words, *SMALL, *QUIET).status == 0
    [folder] = (tmp_path / "results").glob("*/*")
    log = [event for event in events(folder) if event["event"] == "evaluation"]
    assert [event["split"] for event in log] == ["validation", "test"] * 3
    by_split = {
        split: {event["epoch"]: event["metrics"]["Val. Acc."] for event in log if event["split"] == split}
        for split in ("validation", "test")
    }
    validation = by_split["validation"]
    chosen = min(validation, key=lambda epoch: (-validation[epoch], epoch == 0, epoch))
    record = json.loads((folder / "result.json").read_text())
    assert record["samples"] == {"train": 18, "validation": 6, "test": 6}
    assert (record["held_out"], record["validation"], record["chosen_on"]) == ([1], [2], "validation")
    (best,) = record["best"]
    assert (best["epoch"], best["value"]) == (chosen, by_split["test"][chosen])
    args: dict[str, Any] = {"fold": 1, "validation_fold": "next", "cache": tmp_path / "cache"}
    train, test = (ESC50(sounds, train=train, **args) for train in (True, False))
    assert train.validation is not None
    parts = [{clip.path for clip in part.clips} for part in (train, train.validation, test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30


def test_frozen_towers_do_not_move_and_the_audio_tower_does(
    command: Command, sounds: Path, tmp_path: Path
) -> None:
    words = ["--Dataset.args.root", sounds, "-S", "--Setup.seed", "5", "--Optimizer.args.lr", "0.01"]
    assert command(published(), *BRIEF, *SMALL, *QUIET, *words).status == 0
    torch.manual_seed(5)
    _, overrides = split_overrides([*SMALL, "--Model.args.pretrained", "false"])
    protocol = load(tmp_path / "protocol.json", overrides, defaults=DEFAULTS)
    before = draw(protocol).model(**protocol.model.args).state_dict()
    after = read_state_dict(next(tmp_path.rglob("last_epoch-1.pt")))
    constant = {"audio.window", "audio.fbsp.bias"}  # logit_scale_ai has no gradient: there are no images
    for name, tensor in after.items():
        trained = name.startswith(("audio.", "logit_scale_at")) and name not in constant
        assert torch.equal(tensor, before[name]) != trained, name


def test_the_audio_tower_can_train_alone_as_a_classifier(
    command: Command, sounds: Path, tmp_path: Path
) -> None:
    words = ["--Dataset.args.root", sounds, "--Model.args.num_classes", "6", "--Setup.precision", "bf16"]
    audio_only = SMALL[SMALL.index("--Model.args.spec_height") :]
    assert command("esresnextfbsp-esc50", *BRIEF, *audio_only, *QUIET, *words).status == 0
    weights = read_state_dict(next(tmp_path.rglob("last_epoch-1.pt")))
    assert weights["fc.weight"].shape == (6, 512)
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_stereo_clips_are_trained_and_evaluated_in_bf16(command: Command, tmp_path: Path) -> None:
    root = write_us8k(tmp_path / "UrbanSound8K")
    words = ["--Dataset.args.root", root, "--Setup.precision", "bf16", "--Task.args.positives", "same_label"]
    assert command("audioclip-us8k", *BRIEF, "-b", "4", *SMALL, *QUIET, *words).status == 0
    [folder] = (tmp_path / "results").glob("*/*")
    evaluated = [event["split"] for event in events(folder) if event["event"] == "evaluation"]
    assert evaluated == ["test", "train", "test"]


def test_everything_that_cannot_be_built_is_reported_before_a_clip_is_decoded(
    command: Command, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.datasets.esc50.read_audio", lambda *_: pytest.fail("a clip was decoded"))
    words = ["--Transforms.2.args.max_scale", "0.5", "--Task.args.template", "sound"]
    words += ["--Model.args.pretrained", str(tmp_path / "none.pt")]
    status, _, error = command(published(root=str(sounds), fold=11), *SMALL, *words)
    assert status == 2
    assert error.startswith("error: 4 problems:")
    assert "Dataset.args.fold is 11; ESC-50 has folds 1 to 5." in error
    assert "Transforms[2].args.max_scale is 0.5" in error
    assert 'Task.args.template is "sound"' in error
    assert "none.pt: no such file" in error
    assert not list((tmp_path / "results").iterdir())


def test_for_a_misspelt_name_of_released_weights_the_right_one_is_suggested(
    command: Command, sounds: Path
) -> None:
    words = ["--Model.args.pretrained", "AudioCLIP-Full-Traning"]
    refused = command(published(root=str(sounds)), *SMALL, *words)
    assert refused.status == 2
    assert 'did you mean "AudioCLIP-Full-Training"?' in refused.err


def test_audio_in_unit_range_is_refused_before_training(
    command: Command, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "utils.datasets.esc50.read_audio", lambda *_, **__: np.full((1, 9000), 0.5, np.float32)
    )
    refused = command(published(root=str(sounds)), *BRIEF, *SMALL)
    assert refused.status == 2
    assert "the audio looks like [-1, 1], but 16-bit units" in refused.err


def test_the_classifier_starts_from_the_released_tower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is built from the protocol; the weights file has the shape of the released one."""
    protocol = load(ROOT / "protocols/esresnextfbsp-esc50.json", defaults=DEFAULTS)
    released = ESResNeXt(num_classes=527)
    torch.save(released.state_dict(), tmp_path / "weights.pt")
    found = tmp_path / "weights.pt"
    monkeypatch.setattr("model.esresnet.esresnext.find_initial_weights", lambda *_, **__: found)
    model = draw(protocol).model(**protocol.model.args)
    name = "layer4.0.conv1.weight"
    assert torch.equal(model.state_dict()[name], released.state_dict()[name])
    assert model.state_dict()["fc.weight"].shape == (50, 512)


MISTAKES = [
    (["--Dataset.args.root", "/nowhere"], "Dataset.args.root is /nowhere, which is not a folder"),
    (["--Dataset.args.fold", "11"], "Dataset.args.fold is 11; ESC-50 has folds 1 to 5."),
    (["--Dataset.args.flod", "1"], 'Dataset.args.flod is not an argument; did you mean "fold"?'),
    (["--Setup.epoch", "1"], 'Setup has no "epoch"; did you mean "epochs"?'),
    (["--Model.class", "model.audioclip.AudioCLAP"], 'did you mean "model.audioclip.AudioCLIP"?'),
    (["--Optimizer.class", "torch.optim.SDG"], 'torch.optim has no "SDG"; did you mean "SGD"?'),
    (
        ["--Optimizer.class", "utils.datasets.ESC50"],
        "it must be a subclass of torch.optim.optimizer.Optimizer",
    ),
    (["--Dataset.class", "os.system"], '"os" is not trusted'),
    (
        ["--Optimizer.args.momentun", "0.9"],
        'Optimizer.args.momentun is not an argument; did you mean "momentum"?',
    ),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_named_before_anything_is_trained(
    words: list[str], message: str, command: Command, sounds: Path, tmp_path: Path
) -> None:
    refused = command(published(root=str(sounds)), "--Model.args.pretrained", "false", *words)
    assert refused.status == 2
    assert message in refused.err
    assert not list(tmp_path.rglob("checkpoints"))


def test_a_checkpoint_of_another_model_is_refused(command: Command, sounds: Path, tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pt")
    words = ["--Model.args.pretrained", tmp_path / "other.pt"]
    status, _, error = command(published(root=str(sounds)), *BRIEF, *SMALL, *words)
    assert status == 2
    assert "other.pt" in error
    assert "missing" in error
    assert len(error.splitlines()) < 30


def test_a_corrupt_clip_is_named(command: Command, sounds: Path, tmp_path: Path) -> None:
    copy = tmp_path / "ESC-50"
    shutil.copytree(sounds, copy)
    victim = sorted((copy / "audio").iterdir())[7]
    victim.write_bytes(b"RIFF" + victim.read_bytes()[4:30])
    refused = command(published(root=str(copy)), "--Model.args.pretrained", "false", "-b", "8")
    assert refused.status == 2
    assert victim.name in refused.err


def test_a_split_that_is_not_by_folds_is_refused_with_the_reason(command: Command, sounds: Path) -> None:
    own = published(root=str(sounds), fold="random")
    cases: list[tuple[str | dict[str, Any], list[str], str]] = [
        (own, ["--Model.args.pretrained", "false"], "clips from one recording, which share a fold"),
        ("audioclip-esc50", ["--Dataset.args.fold", "random"], "must be a number"),
        ("audioclip-esc50", ["--Sweep.Dataset.args.fold", "random", "2"], "must be a number"),
        (
            "audioclip-esc50",
            ["--Sweep", "1", "2"],
            "to sweep one key, write for example --Sweep.Setup.seed 1 2",
        ),
    ]
    for protocol, words, message in cases:
        refused = command(protocol, *words)
        assert refused.status == 2
        assert message in refused.err
