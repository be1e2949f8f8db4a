"""The two rules that keep the trainer generic: imports run one way, and it names no research code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ignite_trainer", "model", "utils")

# What each package may import of ours: main -> ignite_trainer; utils -> its contracts, and model.
ALLOWED = {
    "ignite_trainer": {"ignite_trainer"},
    "model": {"model"},
    "utils": {"utils", "model", "ignite_trainer"},
}
CONTRACTS = {
    "ignite_trainer.batch",
    "ignite_trainer.evaluation",
    "ignite_trainer.errors",
    "ignite_trainer.exhibit",
    "ignite_trainer.inspection",
    "ignite_trainer.named_data",
    "ignite_trainer.progress",
    "ignite_trainer.randomness",
    "ignite_trainer.self_description",
    "ignite_trainer.streamed",
    "ignite_trainer.task",
    "ignite_trainer.yardstick",
}


def imported_modules(path: Path) -> set[str]:
    """Every module a file imports, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    for path in files(package):
        ours = {name for name in imported_modules(path) if name.split(".")[0] in PACKAGES}
        wrong = {name for name in ours if name.split(".")[0] not in ALLOWED[package]}
        assert not wrong, f"{path} imports {wrong}"


def test_research_code_sees_only_the_contracts_of_the_trainer() -> None:
    for path in files("utils"):
        ours = {name for name in imported_modules(path) if name.startswith("ignite_trainer")}
        assert ours <= CONTRACTS, f"{path} imports {ours - CONTRACTS}"


def test_the_program_is_reached_through_the_trainer_alone() -> None:
    ours = {name for name in imported_modules(ROOT / "main.py") if name.split(".")[0] in PACKAGES}
    assert ours == {"ignite_trainer.cli"}


def test_the_trainer_names_no_research_code() -> None:
    words = re.compile(r"(?i)\baudio|waveform|\bclip|fbsp|esresn|spectrogram|wavelet")
    for path in files("ignite_trainer"):
        said = [line.strip() for line in path.read_text().splitlines() if words.search(line)]
        assert not said, f"{path}: {said}"


def test_every_import_of_a_third_party_is_in_the_requirements() -> None:
    listed = (ROOT / "requirements.txt").read_text().lower()
    distributions = {
        "PIL": "pillow",
        "ignite": "pytorch-ignite",
        "open_clip": "open_clip_torch",
        "sklearn": "scikit-learn",
    }
    standard = {"__future__", *__import__("sys").stdlib_module_names}
    for package in PACKAGES:
        for path in files(package):
            for module in {name.split(".")[0] for name in imported_modules(path)} - set(PACKAGES) - standard:
                name = distributions.get(module, module)
                assert re.search(rf"(?m)^{re.escape(name.lower())}[=><]", listed), f"{path} imports {module}"


def test_every_requirement_is_imported() -> None:
    modules = {
        name.split(".")[0]
        for package in PACKAGES
        for path in files(package)
        for name in imported_modules(path)
    }
    distributions = {
        "pillow": "PIL",
        "pytorch-ignite": "ignite",
        "open_clip_torch": "open_clip",
        "scikit-learn": "sklearn",
    }
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name = re.split(r"[=><]", line)[0]
            assert distributions.get(name, name) in modules, f"nothing imports {name}"
