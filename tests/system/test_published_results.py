"""Published results: every cell stands with its own weights, its digits and its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_research.records import run_record

from ignite_trainer.api.self_description import WeightsFile
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.sections import PublishedResult
from ignite_trainer.results.record import RunRecord
from ignite_trainer.results.results_table import to_json, to_markdown
from ignite_trainer.results.table_cells import Entry, Found, make_entries
from model.weights.releases import RELEASES
from tests.system.conftest import DEFAULTS, ROOT

PARTIAL, FULL = "AudioCLIP-Partial-Training", "AudioCLIP-Full-Training"
ABSTRACT, IMAGEBIND, PROTOTYPES = (
    "arXiv 2106.13043, abstract",
    "ImageBind (arXiv 2305.05665)",
    "INTERSPEECH 2023",
)
OTHERS = "sakshamsingh1/audio_text_proto"
MLP = "small MLP on frozen embeddings"

# Data set, setting, weights, and who measured it if others did: the value as printed, and its source.
CELLS = {
    ("ESC-50", "zero-shot", PARTIAL, None): ("69.40", ABSTRACT),
    ("ESC-50", "zero-shot", FULL, None): ("68.6", IMAGEBIND),
    ("UrbanSound8K", "zero-shot", PARTIAL, None): ("65.3", "beside 69.4 in LAION-CLAP"),
    ("UrbanSound8K", "zero-shot", FULL, None): ("68.78", ABSTRACT),
    ("AudioSet", "class names", FULL, None): ("28.4", IMAGEBIND),
    ("ESC-50", "trained", FULL, None): ("97.15", ABSTRACT),
    ("UrbanSound8K", "trained", FULL, None): ("90.07", ABSTRACT),
    ("ESC-50", "zero-shot", FULL, OTHERS): ("68", PROTOTYPES),
    ("UrbanSound8K", "zero-shot", FULL, OTHERS): ("62", PROTOTYPES),
    ("ESC-50", MLP, FULL, OTHERS): ("88", PROTOTYPES),
    ("UrbanSound8K", MLP, FULL, OTHERS): ("86", PROTOTYPES),
}
LISTING = {
    "audioclip-esc50-zeroshot": 4,
    "audioclip-us8k-zeroshot": 4,
    "audioclip-audioset-zeroshot": 1,
    "audioclip-esc50": 1,
    "audioclip-us8k": 1,
}


def listed_by(protocol: str) -> list[PublishedResult]:
    return list(load(ROOT / f"protocols/{protocol}.json", defaults=DEFAULTS).table.published)


def key_of(figure: PublishedResult) -> tuple[str, str, str, str | None]:
    return (figure.dataset, figure.setting, str(figure.name), figure.measured_by)


def test_shipped_protocols_list_every_published_cell_with_its_weights_and_source() -> None:
    figures = [figure for protocol in LISTING for figure in listed_by(protocol)]
    assert {key_of(figure) for figure in figures} == set(CELLS)
    assert len(figures) == len(CELLS)


@pytest.mark.parametrize("path", sorted((ROOT / "protocols").glob("*.json")), ids=lambda path: path.stem)
def test_published_results_of_a_protocol_are_those_cells(path: Path) -> None:
    if path.stem in ("schema", "defaults"):
        return
    for figure in listed_by(path.stem):
        text, source = CELLS[key_of(figure)]
        assert figure.weights == RELEASES[str(figure.name)].sha256
        assert f"{100 * figure.value:.{figure.decimals}f}" == text
        assert figure.decimals == len(text.partition(".")[2])
        assert source in str(figure.source)


@pytest.mark.parametrize("protocol", LISTING)
def test_a_protocol_lists_results_for_its_setting_and_metric(protocol: str) -> None:
    loaded = load(ROOT / f"protocols/{protocol}.json", defaults=DEFAULTS)
    figures = loaded.table.published
    assert len(figures) == LISTING[protocol]
    setting = loaded.table.setting or "trained"
    assert {figure.setting for figure in figures if not figure.measured_by} == {setting}
    assert {figure.metric for figure in figures} <= {line.line_label for line in loaded.lines.values()}


def test_69_40_belongs_to_partial_training_and_68_78_to_full_training() -> None:
    values = {0.694: RELEASES[PARTIAL].sha256, 0.6878: RELEASES[FULL].sha256}
    figures = [*listed_by("audioclip-esc50-zeroshot"), *listed_by("audioclip-us8k-zeroshot")]
    assert {f.value: f.weights for f in figures if f.value in values} == values


def ran(protocol: str, dataset: str, weights: str) -> RunRecord:
    """Return the record of a zero-shot run of a shipped protocol."""
    figures = tuple(listed_by(protocol))
    file = WeightsFile(name=f"{weights}.pt", sha256=RELEASES[weights].sha256)
    metric = figures[0].metric
    record = run_record(
        weights=(file,),
        model="AudioCLIP",
        dataset=dataset,
        setting=figures[0].setting,
        metric=metric,
        published=figures,
    )
    return record.model_copy(update={"last": {metric: 0.5}})


def entries_of(*records: RunRecord) -> list[Entry]:
    return make_entries(Found(folder=str(number), record=record) for number, record in enumerate(records))


@pytest.mark.parametrize(
    ("protocol", "dataset", "weights", "cell"),
    [
        ("audioclip-esc50-zeroshot", "ESC-50", PARTIAL, "69.40"),
        ("audioclip-esc50-zeroshot", "ESC-50", FULL, "68.6"),
        ("audioclip-us8k-zeroshot", "UrbanSound8K", PARTIAL, "65.3"),
        ("audioclip-us8k-zeroshot", "UrbanSound8K", FULL, "68.78"),
        ("audioclip-audioset-zeroshot", "AudioSet", FULL, "28.4"),
    ],
)
def test_a_run_with_either_weights_stands_beside_its_own_cell(
    protocol: str, dataset: str, weights: str, cell: str
) -> None:
    record = ran(protocol, dataset, weights)
    text = to_markdown(entries_of(record), [])
    assert f"| 50.0 (whole set) | {cell} |" in text
    (content,) = to_json(entries_of(record), [])["cells"]
    assert f"{100 * content['published']:.{len(cell.partition('.')[2])}f}" == cell
    assert content["published_source"]


def test_results_that_others_measured_have_their_own_row() -> None:
    records = [ran("audioclip-esc50-zeroshot", "ESC-50", weights) for weights in (PARTIAL, FULL)]
    lines = to_markdown(entries_of(*records), []).splitlines()
    assert (
        lines[2] == f"| model, initial weights | ESC-50, {MLP} | published | ESC-50, zero-shot | published |"
    )
    assert f"| {FULL}, measured by {OTHERS.replace('_', chr(92) + '_')} | 88 |  | 68 |  |" in lines
    assert f"| AudioCLIP, {FULL}.pt |  |  | 50.0 (whole set) | 68.6 |" in lines
    assert 'Rows "measured by" others show values that they published, not our results.' in lines[8]


def test_every_published_result_is_listed_once_with_its_source() -> None:
    records = [ran("audioclip-esc50-zeroshot", "ESC-50", weights) for weights in (PARTIAL, FULL)]
    text = to_markdown(entries_of(*records), [])
    (section,) = [part for part in text.split("\n\n## ") if part.startswith("Published results")]
    rows = section.splitlines()[4:]
    assert len(rows) == 4
    assert f"| ESC-50, zero-shot | {PARTIAL} | Val. Acc. | 69.40 | {ABSTRACT};" in section
    assert f"| ESC-50, zero-shot | {FULL} | Val. Acc. | 68.6 | {IMAGEBIND}, tables 2 and 3 |" in section
    assert "eval mode" in section and "clips of 4 s" in section
    listed = to_json(entries_of(*records), [])["published"]
    assert sorted(each["value"] for each in listed) == [0.68, 0.686, 0.694, 0.88]


def test_a_result_of_an_earlier_version_without_source_and_digits_still_loads(tmp_path: Path) -> None:
    record = ran("audioclip-esc50-zeroshot", "ESC-50", PARTIAL)
    content = json.loads(record.model_dump_json())
    kept = ("dataset", "weights", "setting", "metric", "value")
    content["published"] = [{key: figure[key] for key in kept} for figure in content["published"][:1]]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    old = RunRecord.read(path)
    text = to_markdown(entries_of(old), [])
    assert f"| AudioCLIP, {PARTIAL}.pt | 50.0 (whole set) | 69.40 |" in text
    assert (
        f"| ESC-50, zero-shot | {RELEASES[PARTIAL].sha256[:12]} | Val. Acc. | 69.40 | not recorded |" in text
    )
