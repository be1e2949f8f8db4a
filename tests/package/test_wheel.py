"""The inference package: what is in it, what it needs, and that it computes what a clone computes.

These tests need only the package's own dependencies, setuptools and pytest: on other systems, run them with
`--confcutdir tests/package`, so that the fixtures of training are not imported.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("model", "tests", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")

BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]  # setuptools replaces sys.argv
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""

SMALL = {
    "embed_dim": 16,
    "image_resolution": 64,
    "vision_layers": [1, 1, 1, 1],
    "vision_width": 8,
    "context_length": 77,
    "transformer_width": 16,
    "transformer_heads": 2,
    "transformer_layers": 1,
}

# The first argument is the package's name.
EMBED = f"""
import importlib, sys
import numpy as np
import torch

package = importlib.import_module(sys.argv[1])
torch.manual_seed(1)
package.AudioCLIP(**{SMALL}, pretrained=False).save_pretrained(sys.argv[2])
model = package.AudioCLIP.from_pretrained(sys.argv[2])
noise = np.random.default_rng(1).normal(0, 3000, (2, 30000)).astype("float32")
photo = np.random.default_rng(1).integers(0, 255, (90, 70, 3), dtype="uint8")
np.savez(
    sys.argv[3],
    audio=model.embed_audio(noise, sample_rate=22050, batched=True),
    image=model.embed_image(photo),
    text=model.embed_text(["dog", "rain"]),
    probabilities=model.classify([noise[0], photo], ["dog", "rain"], sample_rate=22050),
)
print(package.__file__, package.__version__)
"""

# Each argument is a command.
COMMANDS = f"""
import sys
from audioclip import AudioCLIP
from audioclip.__main__ import main

AudioCLIP(**{SMALL}, pretrained=False).save_pretrained("weights")
sys.exit(any(main([*command.split(), "--weights", "weights"]) for command in sys.argv[1:]))
"""

# Only the distributions that the package requires, directly or not, can be imported.
ONLY_REQUIRED = """
import sys
from importlib import metadata

from packaging.requirements import Requirement

packages = metadata.packages_distributions()
required, todo = {"optree"}, ["audioclip"]  # torch uses optree if its metadata is found
while todo:
    name = todo.pop().lower().replace("_", "-")
    if name not in required:
        required.add(name)
        try:
            needs = map(Requirement, metadata.requires(name) or ())
        except metadata.PackageNotFoundError:  # of another system
            continue
        todo += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]

for name, owners in packages.items():
    if name not in sys.modules and not required & {owner.lower().replace("_", "-") for owner in owners}:
        sys.modules[name] = None  # so that it cannot be imported
"""


def build(folder: Path) -> tuple[Path, Path]:
    """Build a wheel and a source distribution from a copy of the sources; return their paths."""
    for name in SOURCES:
        source, copy = ROOT / name, folder / "sources" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    command = [sys.executable, "-c", BUILD, str(folder)]
    subprocess.run(command, cwd=folder / "sources", check=True, capture_output=True)
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without its dependencies, into a folder for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(folder)
    return folder


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(files.read(name).decode())


def run(code: str, *arguments: str | Path, path: Path, folder: Path) -> str:
    """Run code with `path` on sys.path in a folder, with a cache in it; return what it printed."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(path),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "AUDIOCLIP_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_files_of_the_folder_once_and_unchanged(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    files = [path for path in (ROOT / "model").rglob("*") if path.suffix in (".py", ".typed")]
    expected = {f"audioclip/{path.relative_to(ROOT / 'model').as_posix()}": path for path in files}
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        assert sorted(names) == sorted(expected)
        assert all(archive.read(name) == path.read_bytes() for name, path in expected.items())
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "audioclip = audioclip.__main__:main" in archive.read(entry_points).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


def test_the_source_distribution_builds_the_same_wheel(built: tuple[Path, Path], tmp_path: Path) -> None:
    wheel, archive = built
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    (sources,) = tmp_path.iterdir()
    assert not (sources / "tests").exists()
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", BUILD, str(tmp_path / "out")]
    subprocess.run(command, cwd=sources, check=True, capture_output=True)
    (again,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert {file.filename: file.CRC for file in first.infolist() if "RECORD" not in file.filename} == {
            file.filename: file.CRC for file in second.infolist() if "RECORD" not in file.filename
        }


def test_the_version_is_that_of_the_package(built: tuple[Path, Path]) -> None:
    tree = ast.parse((ROOT / "model/__init__.py").read_text(encoding="utf-8"))
    (version,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    about = metadata_of(built[0])
    assert about["Version"] == version
    assert about["License-Expression"] == "MIT"


def test_the_installed_package_computes_what_a_clone_computes(installed: Path, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    printed = run(ONLY_REQUIRED + EMBED, "audioclip", "a", "a.npz", path=installed, folder=tmp_path)
    file, _, version = printed.strip().rpartition(" ")
    assert Path(file) == installed / "audioclip/__init__.py"
    assert version == metadata_of(next(installed.parent.glob("built*/*.whl")))["Version"]
    run(EMBED, "model", "m", "m.npz", path=ROOT, folder=tmp_path)
    with np.load(tmp_path / "a.npz") as ours, np.load(tmp_path / "m.npz") as theirs:
        assert ours["audio"].shape == (2, 16)
        np.testing.assert_allclose(ours["probabilities"].sum(axis=1), 1, rtol=1e-6)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_the_command_line_embeds_and_classifies_files(installed: Path, tmp_path: Path) -> None:
    np, soundfile = pytest.importorskip("numpy"), pytest.importorskip("soundfile")
    image, safetensors = pytest.importorskip("PIL.Image"), pytest.importorskip("safetensors.numpy")
    (tmp_path / "files").mkdir()
    noise = np.random.default_rng(1)
    for number in range(3):
        soundfile.write(tmp_path / f"files/{number}.wav", noise.normal(0, 0.1, 30000), 22050)
    image.fromarray(noise.integers(0, 255, (90, 70, 3), dtype="uint8")).save(tmp_path / "files/photo.png")

    embed, classify = "embed files --out x.safetensors", "classify files --labels dog rain"
    # the second `embed` reads what the first has stored
    printed = run(ONLY_REQUIRED + COMMANDS, embed, embed, classify, path=installed, folder=tmp_path)
    embeddings = safetensors.load_file(tmp_path / "x.safetensors")["embeddings"]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), np.ones(4), rtol=1e-5)
    assert list((tmp_path / "cache").iterdir())
    for name in ("0.wav", "1.wav", "2.wav", "photo.png"):
        assert name in printed


@pytest.mark.processes
def test_the_readme_works_in_a_bare_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    """The packages come from uv's cache, if they are there, or from the index."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed in this environment")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "bare"], check=True)
    python = tmp_path / "bare/bin/python"
    install: list[str | Path] = [uv, "pip", "install", "--quiet", "--python", python, built[0]]
    subprocess.run([*install, "--no-verify-hashes", "--constraints", ROOT / "requirements.lock"], check=True)
    code = (ROOT / "README.md").read_text().partition("## Install the package")[2]
    code = code.partition("```python\n")[2].partition("```")[0]
    assert "embed_audio" in code
    code = code.replace('"AudioCLIP-Full-Training"', repr(str(tmp_path / "weights")))
    make = f"""
import audioclip, numpy, soundfile, torch
torch.manual_seed(1)
audioclip.AudioCLIP(**{SMALL}, pretrained=False).save_pretrained({str(tmp_path / "weights")!r})
soundfile.write("dog.wav", numpy.random.default_rng(1).normal(0, 0.1, 44100), 44100)
"""
    done = subprocess.run(
        [python, "-c", make + code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"tensor\(\[\[ *-?0\.\d+, +-?0\.\d+\]\]", done.stdout), done.stdout
    command = subprocess.run(
        [tmp_path / "bare/bin/audioclip", "--help"], capture_output=True, text=True, check=True
    )
    assert "embed" in command.stdout


def test_importing_the_package_imports_nothing_heavy(installed: Path, tmp_path: Path) -> None:
    code = "import sys, audioclip; print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    assert run(code, path=installed, folder=tmp_path) == "[]\n"


def test_every_public_name_can_be_imported(installed: Path, tmp_path: Path) -> None:
    code = "import audioclip; print([getattr(audioclip, name).__module__ for name in audioclip.__all__[:-1]])"
    modules = ast.literal_eval(run(code, path=installed, folder=tmp_path))
    assert len(modules) >= 3
    assert all(name.startswith("audioclip.") for name in modules)


def test_public_names_are_listed_before_they_are_imported(installed: Path, tmp_path: Path) -> None:
    code = "import audioclip; print(set(audioclip.__all__) <= set(dir(audioclip)))"
    assert run(code, path=installed, folder=tmp_path) == "True\n"
