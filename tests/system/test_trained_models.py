"""Every line of the READMEs that uses a trained model runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from ignite_trainer.commands import cli
from model.audioclip import AudioCLIP
from model.commands import cli as model_cli
from model.commands import export
from model.weights.loading import read_state_dict
from tests.system.conftest import DEFAULTS, QUIET, ROOT

RESULTS = "results/Quickstart"
SMALL_DATA = """
    --Dataset.args.clips_per_class_and_fold 1 --Dataset.args.seconds 0.2 --Dataset.args.progress false
    --Transforms.3.args.out_len 8820 --Transforms.4.args.out_len 8820
    --Transforms.6.args.out_len 8820 --Transforms.7.args.out_len 8820 --Setup.skip_train_evaluation true
""".split()  # noqa: SIM905


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)


def commands() -> Iterator[list[str]]:
    """Yield the words of every command of the READMEs that uses a trained model."""
    for readme in ("README.md", "model/README.md", "demo/README.md"):
        for block in blocks(readme, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and (RESULTS in words or words[0] == "audioclip" or "-m model" in line):
                    yield words


def expand(word: str) -> list[str]:
    """Expand a word of a command if it is a pattern in the home folder."""
    if not word.startswith("~/"):
        return [word]
    return [str(path) for path in sorted(Path.home().glob(word.removeprefix("~/")))]


def run_command(words: list[str]) -> int:
    """Run a line of a README in this process, on little data."""
    if words[:2] == ["python", "main.py"]:
        words = [str(ROOT / word) if word.startswith("protocols/") else word for word in words]
        return cli.main([*words[2:], *SMALL_DATA, *QUIET], defaults=DEFAULTS)
    words = words[3:] if words[:3] == ["python", "-m", "model"] else words[1:]
    return model_cli.main([file for word in words for file in expand(word)])


def use_as_home(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(folder)
    patch.setenv("HOME", str(folder))
    for name in ("AUDIOCLIP_CACHE", "XDG_CACHE_HOME"):
        patch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the quickstart's protocol on a few short sounds, in a folder that is also the home."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        use_as_home(folder, patch)
        assert run_command(["python", "main.py", "-c", "protocols/quickstart.json", "-e", "1"]) == 0
    return folder


@pytest.fixture
def trained_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder of `trained`, which contains only the results of the run."""
    use_as_home(trained, monkeypatch)
    return trained


@pytest.fixture
def own_files(trained_folder: Path) -> Iterator[None]:
    """Write the user's files that the READMEs name."""
    sounds = [trained_folder / name for name in ("dog.wav", "rain.ogg", "bark.wav")]
    for sound in sounds:
        noise = np.random.default_rng(len(sound.name)).uniform(-0.5, 0.5, 9000)
        soundfile.write(sound, noise, 44100)
    recordings = trained_folder / "recordings"
    recordings.mkdir()
    shutil.copy(sounds[0], recordings)
    picture = trained_folder / "photo.jpg"
    Image.new("RGB", (64, 64), "green").save(picture)
    yield
    for file in (*sounds, picture):
        file.unlink()
    shutil.rmtree(recordings)


@pytest.mark.parametrize("code", blocks("README.md", "python"))
def test_python_of_the_readme_runs(
    code: str,
    trained_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if RESULTS in code:  # runs unchanged after `make run`; makes the quickstart's sounds if missing
        monkeypatch.setenv("HOME", str(tmp_path))
    else:
        request.getfixturevalue("own_files")
    names: dict[str, Any] = {}
    code = code.replace("from audioclip import", "from model import")
    exec(code.replace('"AudioCLIP-Full-Training"', f'"{RESULTS}"'), names)
    (file,) = names["model"].weights_files
    output = capsys.readouterr()
    assert (
        output.err == f"{RESULTS}: {file}\n"
        and file.name.startswith("best_")
        and (trained_folder / file).is_file()
    )
    assert "tensor" in output.out
    if "sounds" in names:
        assert [clip.label for clip in names["sounds"].clips[:2]] == ["siren", "rain"]
    assert names["model"].audio.hop_length == 512 and not names["model"].training
    state = read_state_dict(file)
    assert all(torch.equal(value, state[name]) for name, value in names["model"].state_dict().items())


def test_the_readmes_contain_commands_with_trained_models() -> None:
    programs = {(words[1], words[2]) for words in commands()}
    assert {("main.py", "-c"), ("-m", "model")} <= programs
    words = {word for words in commands() if words[0] == "audioclip" or "model" in words for word in words}
    assert {"embed", "search", "classify", "export"} <= words


@pytest.mark.usefixtures("trained_folder")
@pytest.mark.parametrize("words", [each for each in commands() if "demo/app.py" not in each], ids=" ".join)
def test_a_command_of_the_readmes_runs(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    written: list[AudioCLIP] = []

    def write(model: AudioCLIP, file: Path, **_: Any) -> None:  # other tests export models
        written.append(model)
        file.write_bytes(b"network")

    monkeypatch.setattr(export, "write", write)
    if RESULTS not in words:  # otherwise, it runs unchanged after `make run`
        request.getfixturevalue("own_files")
        words = [RESULTS if word == "AudioCLIP-Full-Training" else word for word in words]
        words += [] if "export" in words else ["--weights", RESULTS]
    assert run_command(words) == 0
    output = capsys.readouterr()
    if "export" in words:
        assert written[0].audio.hop_length == 512
    if "embed" in words:
        assert output.err.splitlines()[-1].startswith("1 sound, 1 image; ")
    if "search" in words and "siren" in words:
        assert output.err.splitlines()[-1] == "30 sounds, 0 images; newly embedded: 30"
        assert output.out.splitlines()[0] == "Sounds" and len(output.out.splitlines()) == 11
    if "classify" in words:
        labels = len(words) - words.index("--labels") - 3
        lines = output.out.splitlines()
        assert lines and len(lines) % (1 + labels) == 0
        for at in range(0, len(lines), 1 + labels):
            assert Path(lines[at]).is_file()
            scores = [float(line.split()[0]) for line in lines[at + 1 : at + 1 + labels]]
            assert sum(scores) == pytest.approx(1.0, abs=2e-3)


def test_evaluating_a_trained_model_reproduces_its_result(trained_folder: Path) -> None:
    known = set(trained_folder.glob(f"{RESULTS}/*/result.json"))
    words = next(words for words in commands() if words[1] == "main.py")
    assert run_command(words) == 0
    (new,) = set(trained_folder.glob(f"{RESULTS}/*/result.json")) - known
    evaluated = json.loads(new.read_text())
    trained = next(result for path in known if (result := json.loads(path.read_text()))["epochs"])
    best = trained["best"][0]  # no checkpoint if no epoch was better than the untrained model
    assert evaluated["epochs"] == 0
    assert evaluated["last"]["Val. Acc."] == pytest.approx(
        best["value"] if best["checkpoint"] else trained["last"]["Val. Acc."]
    )
