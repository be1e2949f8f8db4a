"""The files, sections, protocols and modules that the READMEs and other pages refer to exist."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.loading import load

ROOT = Path(__file__).parent.parent
OWN_PROTOCOLS = {"protocols/X.json", "protocols/mine.json", "protocols/my-data.json"}
# Without the READMEs of caches.
READMES = sorted([*ROOT.glob("*.md"), ROOT / "assets/MODEL_CARD.md", *ROOT.glob("[!.]*/README.md")])


def anchors(path: Path) -> set[str]:
    """Return the link names of a page's sections: lower case, hyphens for spaces, no punctuation."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(readme: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", readme.read_text())
    for link in links:
        file, _, section = link.partition("#")
        if file.startswith(("https:", "http:")):
            continue
        target = (readme.parent / file).resolve() if file else readme
        assert target.exists(), link
        assert not section or section in anchors(target), link


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_modules_of_commands_exist(readme: Path) -> None:
    text = readme.read_text()
    for name in re.findall(
        r"(?:tests|demo|protocols|assets|utils|ignite_trainer)/[\w\-/.]+\.(?:py|json|png|ipynb)", text
    ):
        assert (ROOT / name).exists() or name in OWN_PROTOCOLS, name
    for module in re.findall(r"python -m ((?:utils|ignite_trainer|model)[\w.]*)", text):
        found = importlib.util.find_spec(module)
        assert found, module
        assert not found.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__"), module


def test_every_protocol_is_in_the_readme() -> None:
    """After a related protocol, an ending is enough: `audioset-1-audio.json`, `-2-partial`."""
    named: set[str] = set()
    for row in re.findall(r"^\| (`[\w-]+\.json`.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE):
        names = re.findall(r"`([\w-]+)(?:\.json)?`", row)
        beginning = names[0].partition("-")[0]
        named |= {beginning + name if name.startswith("-") else name for name in names}
    shipped = {path.stem for path in (ROOT / "protocols").glob("*.json")} - {"schema", "defaults"}
    assert named == shipped


def test_the_protocol_of_the_readme_extends_a_shipped_one(tmp_path: Path) -> None:
    (written,) = re.findall(r"```jsonc\n(\{.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    mine = tmp_path / "protocols/mine.json"
    mine.write_text(written)
    protocol = load(mine, defaults=ROOT / "protocols/defaults.json")
    assert protocol.setup.epochs == 10 and protocol.setup.name == "Multimodal-Audio"
    assert protocol.optimizer is not None and protocol.optimizer.args["lr"] == 1e-4


def test_sections_below_i_want_to_extend_a_shipped_protocol(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    table = (ROOT / "protocols/README.md").read_text().partition("## Every key")[0]
    sections = re.findall(r'`("[A-Z]\w*": [^`]*)`', table)
    complete = [section for section in sections if "..." not in section]
    assert len(complete) > 20
    for section in complete:
        mine = tmp_path / "protocols/mine.json"
        mine.write_text(f'{{"extends": "audioclip-esc50.json", {section}}}')
        draw(load(mine, defaults=ROOT / "protocols/defaults.json"))


def test_the_protocol_with_a_teacher_extends_a_shipped_one(tmp_path: Path) -> None:
    (written,) = re.findall(r"```json\n(\{.*?)```", (ROOT / "utils/README.md").read_text(), re.DOTALL)
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    mine = tmp_path / "protocols/mine.json"
    mine.write_text(written)
    blueprint = draw(load(mine, defaults=ROOT / "protocols/defaults.json"))
    assert callable(blueprint.task_args["teacher"])
    assert blueprint.task_args["distillation"] == {"similarities": 1.0}


def test_the_protocol_with_the_sigmoid_loss_trains_its_bias(tmp_path: Path) -> None:
    blocks = re.findall(r"```jsonc\n(\{.*?)```", (ROOT / "utils/README.md").read_text(), re.DOTALL)
    (written,) = (block for block in blocks if "sigmoid" in block)
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    mine = tmp_path / "protocols/mine.json"
    mine.write_text(written)
    protocol = load(mine, defaults=ROOT / "protocols/defaults.json")
    assert draw(protocol).task_args["loss"] == "sigmoid"
    assert protocol.model.args["logit_bias"] == -10
    rule = next(rule for rule in protocol.parameters if re.fullmatch(rule.match, "logit_bias_at"))
    assert rule.train and rule.args == {"weight_decay": 0.0}


def test_make_run_ends_with_the_place_of_the_report() -> None:
    planned = subprocess.run(
        ["make", "--no-print-directory", "-n", "run"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    *_, run, last = planned.splitlines()
    # The run ends with a link to its report.
    assert run.endswith("main.py --config protocols/quickstart.json")
    assert last.startswith('echo "Open the report in a browser.')
    readme, section = re.findall(r"(\S+README\.md), ([\w ]+)", last)[0]
    assert section.strip().lower().replace(" ", "-") in anchors(ROOT / readme)
