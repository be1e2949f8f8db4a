"""Imports between packages go in one direction, without cycles; the trainer names no research code."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGES = ("ignite_trainer", "model", "utils")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {
    extra: {canonicalize_name(Requirement(text).name) for text in texts if not text.startswith("#")}
    for extra, texts in {
        "": PROJECT["dependencies"],
        **PROJECT["optional-dependencies"],
        "benchmarks": (ROOT / "utils/benchmarks/requirements.txt").read_text().splitlines(),
    }.items()
}
"""Names of required distributions, by extra."""
NEEDED = {
    "model": ("", "parquet", "export", "peers"),
    "ignite_trainer": ("", "train"),
    "utils": ("", "train", "benchmarks"),
    "demo": ("", "train", "demo"),
}
"""Extras whose distributions each package may import."""
DISTRIBUTIONS = {
    "PIL": "pillow",
    "ignite": "pytorch-ignite",
    "open_clip": "open_clip_torch",
    "sklearn": "scikit-learn",
    "tokenizers": "transformers",
}
"""Distributions that are not named after their modules."""
MOST_MODULES = 14
"""Maximum number of modules in a folder."""

# The project's packages that each package may import.
ALLOWED = {
    "ignite_trainer": {"ignite_trainer"},
    "model": {"model"},
    "utils": {"utils", "model", "ignite_trainer"},
}
# From the bottom up: each of these packages imports only itself and packages before it.
SUBPACKAGES = (
    "support",
    "api",
    "protocol",
    "data",
    "training",
    "checkpoints",
    "results",
    "reporters",
    "runs",
    "commands",
)
# Packages of the trainer that research code may import, and exceptions for its commands.
SEEN_BY_RESEARCH_CODE = ("ignite_trainer.support", "ignite_trainer.api")
SEEN_BY_COMMANDS = {"utils.shards.__main__": {"ignite_trainer.commands.named_data"}}


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for package in PACKAGES for path in files(package)}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports, also in functions, and the number of dots before its name."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield (name if name in modules() else base), node.level


def imported_modules(path: Path) -> set[str]:
    return {name for name, _ in imports(path)}


def subpackage_of(module: str) -> str | None:
    """Return the trainer's package that a module belongs to, or None for the trainer itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_in_one_direction(package: str) -> None:
    for path in files(package):
        ours = {name for name in imported_modules(path) if name.split(".")[0] in PACKAGES}
        wrong = {name for name in ours if name.split(".")[0] not in ALLOWED[package]}
        assert not wrong, f"{path} imports {wrong}"


def test_a_package_imports_only_packages_below_it() -> None:
    for path in files("ignite_trainer"):
        subpackage = subpackage_of(name_of(path))
        below = SUBPACKAGES[: SUBPACKAGES.index(subpackage) + 1] if subpackage else ()
        ours = {name for name in imported_modules(path) if name.startswith("ignite_trainer.")}
        wrong = {name for name in ours if subpackage_of(name) not in below}
        assert not wrong, f"{path} imports {wrong}"


def test_there_are_no_import_cycles() -> None:
    """Imports for type checkers, and inside functions, count."""
    graph = {name: imported_modules(path) & set(modules()) - {name} for name, path in modules().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("package", [*PACKAGES, "demo", "tests"])
def test_no_folder_has_too_many_modules(package: str) -> None:
    for folder in {path.parent for path in files(package)}:
        count = len(list(folder.glob("*.py")))
        assert count <= MOST_MODULES + (folder / "__init__.py").exists(), f"{folder} has {count}"


def test_only_the_networks_import_relatively() -> None:
    for package in PACKAGES:
        for path in files(package):
            for name, level in imports(path):
                ours = name.split(".")[0] in PACKAGES
                assert (level > 0) == (ours and package == "model"), f"{path} imports {name}"


def test_research_code_sees_only_the_contracts_of_the_trainer() -> None:
    for path in files("utils"):
        ours = {name for name in imported_modules(path) if name.startswith("ignite_trainer")}
        wrong = {name for name in ours if not name.startswith(SEEN_BY_RESEARCH_CODE)}
        assert wrong <= SEEN_BY_COMMANDS.get(name_of(path), set()), f"{path} imports {wrong}"


def test_main_imports_only_the_command_line_of_the_trainer() -> None:
    ours = {name for name in imported_modules(ROOT / "main.py") if name.split(".")[0] in PACKAGES}
    assert ours == {"ignite_trainer.commands.cli"}


def test_the_trainer_names_no_research_code() -> None:
    words = re.compile(r"(?i)\baudio|waveform|\bclip(?!_grad_norm_)|fbsp|esresn|spectrogram|wavelet")
    for path in files("ignite_trainer"):
        said = [line.strip() for line in path.read_text().splitlines() if words.search(line)]
        assert not said, f"{path}: {said}"


def third_party_imports(package: str) -> dict[str, Path]:
    """Return the distributions that a package imports, each with a file that does so."""
    ours = {*PACKAGES, "demo", "__future__", *sys.stdlib_module_names}
    return {
        canonicalize_name(DISTRIBUTIONS.get(module, module)): path
        for path in files(package)
        for module in {name.split(".")[0] for name in imported_modules(path)} - ours
    }


@pytest.mark.parametrize("package", NEEDED)
def test_every_import_of_a_third_party_is_listed(package: str) -> None:
    listed = set().union(*(REQUIREMENTS[name] for name in NEEDED[package]))
    for name, path in third_party_imports(package).items():
        assert name in listed, f"{path} imports {name}"


def test_every_requirement_is_imported() -> None:
    imported = {name for package in NEEDED for name in third_party_imports(package)}
    listed = set().union(*(names for extra, names in REQUIREMENTS.items() if extra != "benchmarks"))
    # `demo` includes `train` by the package's own name; visdom's server runs in a separate process
    assert listed - imported == {PROJECT["name"], "visdom"}


def test_the_lock_fulfils_the_requirements() -> None:
    locked = dict[str, list[Requirement]]()
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if re.match(r"\w", line):
            pinned = Requirement(line.removesuffix("\\"))
            locked.setdefault(canonicalize_name(pinned.name), []).append(pinned)
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"]]:
        wanted = Requirement(text)
        versions = [next(iter(pinned.specifier)).version for pinned in locked[canonicalize_name(wanted.name)]]
        assert any(map(wanted.specifier.contains, versions)), f"{text}: the lock has {versions}"
