"""Training samples are left out by the names of known evaluation sets and by files of identifiers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from utils.datasets import ESC50, MadeSounds, Table
from utils.datasets.sources.exclusion import KNOWN_SETS, Exclusion

# Tables of each known set as published, with the recordings of its evaluation samples.
TABLES: dict[str, tuple[str, str, set[str]]] = {
    "ESC-50": (
        "meta/esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n5-9032-A-0.wav,5,0,dog,True,9032,A\n",
        {"freesound:100032", "freesound:9032"},
    ),
    "UrbanSound8K": (
        "metadata/UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark\n",
        {"freesound:100032"},
    ),
    "FSD50K": (
        "FSD50K.ground_truth/eval.csv",
        'fname,labels,mids\n37199,"Electric_guitar,Guitar","/m/02sgy,/m/0342h"\n',
        {"freesound:37199"},
    ),
    "Clotho": (
        "clotho_metadata_evaluation.csv",
        "file_name,keywords,sound_id,sound_link,start_end_samples,manufacturer,license\n"
        'Santa Motor.wav,"machine;\x85",111111,https://freesound.org/,"[0, 1]",caf\xe9,x\n'
        "Rain.wav,rain,Not found,,,,\n",
        {"freesound:111111"},
    ),
    "AudioSet": (
        "eval_segments.csv",
        "# Segments csv\n# num_ytids=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
        '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/07q6cd_"\n--BfvyPmVMo, 20.000, 30.000, "/m/03l9g"\n',
        {"youtube:--4gqARaEJE", "youtube:--BfvyPmVMo"},
    ),
    "AudioCaps": (
        "dataset/test.csv",
        'audiocap_id,youtube_id,start_time,caption\n103541,7fmOlUlwoNg,110,"Rain, falling"\n',
        {"youtube:7fmOlUlwoNg"},
    ),
    "VGGSound": (
        "vggsound.csv",
        '---g-f_I2yQ,1,people marching,test\n--0PQM4-hqg,30,"waterfall, burbling",train\n',
        {"youtube:---g-f_I2yQ"},
    ),
}


def write_table(name: str, folder: Path) -> set[str]:
    """Write the table of a known set, and return the recordings of its evaluation samples."""
    table, content, recordings = TABLES[name]
    (folder / table).parent.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text(content, encoding="latin-1")
    return recordings


def named(exclude: Any, sources: list[str | None]) -> list[bool]:
    """Return which of the samples are left out; one more sample is always kept."""
    return list(Exclusion(exclude).apply([*sources, "kept:0"]).mask[:-1].tolist())


@pytest.mark.parametrize("name", KNOWN_SETS)
def test_the_evaluation_samples_of_a_known_set_are_read_from_its_own_tables(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = sorted(write_table(name, tmp_path / "data" / name))
    others: list[str | None] = ["youtube:--0PQM4-hqg", "freesound:1", None]
    monkeypatch.chdir(tmp_path)  # the usual folder is relative to the working directory
    expected = [*[True] * len(recordings), *[False] * 3]
    assert named(name, [*recordings, *others]) == expected
    monkeypatch.chdir("/")
    assert named(f"{name}:{tmp_path / 'data' / name}", [*recordings, *others]) == expected


def test_a_file_lists_identifiers_with_or_without_prefix(tmp_path: Path) -> None:
    file = tmp_path / "ids.csv"
    file.write_text('# comment\nfreesound:7,dog\n"8"\n\nyoutube:-0SdAVK79lg\t10\n')
    found = ["freesound:7", "7", "youtube:7", "freesound:8", "8", "youtube:-0SdAVK79lg", "9", None]
    assert named(str(file), found) == [True, True, False, True, True, True, False, False]


def test_samples_are_counted_by_the_first_list_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("freesound:1\nfreesound:2\n")
    (tmp_path / "b.txt").write_text("freesound:2\nfreesound:3\n")
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    excluded = Exclusion(names).apply([*(f"freesound:{number}" for number in (1, 2, 2, 3, 4)), None])
    assert excluded.mask.tolist() == [True, True, True, True, False, False]
    assert excluded.counts == {names[0]: 3, names[1]: 1}
    assert excluded.unknown == 1
    assert str(excluded) == (
        f"4 of 6 training samples are left out, because their recordings are in {names[0]} (3) or {names[1]} "
        "(1); the recordings of 1 samples are unknown."
    )


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (
            "ESC50",
            r'exclude is "ESC50"; the path of a file of identifiers, or ESC-50, .* Did you mean "ESC-50"\?',
        ),
        ("none.txt", r'exclude is "none.txt"; the path of a file .* "ESC-50:FOLDER", is expected\.$'),
        ("ESC-50", r'the table of ESC-50 cannot be read: .*esc50\.csv.* as in "ESC-50:FOLDER"'),
        ("ESC-50:elsewhere", r"the table of ESC-50 cannot be read: .*elsewhere/meta/esc50\.csv"),
        ("AudioSet", r"the table of AudioSet cannot be read: .* has no eval_segments\.csv"),
        ("empty.txt", r"exclude is 'empty.txt', which names no recording"),
        ([], r"exclude is \[\]; the path of a file"),
        (7, r"exclude is 7; the path of a file"),
        ([7], r"exclude is \[7\]; the path of a file"),
    ],
)
def test_what_cannot_be_excluded_is_an_error_that_lists_what_can(
    exclude: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("# nothing\n\n")
    with pytest.raises(ValueError, match=message):
        Exclusion(exclude)


def test_excluding_nothing_known_or_everything_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("1\n")
    exclusion = Exclusion(str(tmp_path / "ids.txt"))
    with pytest.raises(ValueError, match="the recording of no training sample is known"):
        exclusion.apply([None, None])
    with pytest.raises(ValueError, match="that leaves no sample to train on"):
        exclusion.apply(["freesound:1"])


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    """Write 6 clips in each of 5 folds, in ESC-50's layout."""
    made = MadeSounds(tmp_path / "made", seconds=0.1, clips_per_class_and_fold=1, cache=tmp_path / "cache")
    return made.root


def test_only_training_clips_of_folds_are_left_out(esc50: Path, tmp_path: Path) -> None:
    def build(train: bool, **args: Any) -> ESC50:
        return ESC50(esc50, train=train, fold=1, validation_fold=2, cache=tmp_path / "cache", **args)

    train, test = build(True), build(False)
    assert train.validation is not None
    victims = [train.clips[3], train.validation.clips[0], test.clips[0]]
    (tmp_path / "ids.txt").write_text("\n".join(str(clip.source) for clip in victims))
    ids = str(tmp_path / "ids.txt")
    smaller, same = build(True, exclude=ids), build(False, exclude=[ids])
    assert smaller.clips == [clip for clip in train.clips if clip != victims[0]]
    assert smaller.targets == train.targets[:3] + train.targets[4:]
    assert smaller.validation is not None
    assert smaller.validation.clips == train.validation.clips
    assert same.clips == test.clips
    assert (dict(smaller.excluded), dict(same.excluded), dict(train.excluded)) == ({ids: 1}, {}, {})
    assert [smaller[index].labels for index in range(len(smaller))] == [[c.label] for c in smaller.clips]
    with pytest.raises(ValueError, match="nothing is held out"):
        ESC50(esc50, exclude=ids)


def test_training_rows_of_a_table_are_left_out_and_the_number_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "own.csv"
    with table.open("w", newline="") as file:
        rows = [(f"a{n}", "x", "test" if n == 5 else "train", f"freesound:{n}") for n in range(6)]
        csv.writer(file).writerows([("text", "label", "split", "source"), *rows])
    (tmp_path / "ids.txt").write_text("2\n4\n5\n")
    args: dict[str, Any] = {"split": "test", "exclude": str(tmp_path / "ids.txt")}
    train, test = (Table(table, train=train, **args) for train in (True, False))
    assert [entry.captions for entry in train.entries] == [("a0",), ("a1",), ("a3",)]
    assert [entry.captions for entry in test.entries] == [("a5",)]
    assert list(train.lines) == [2, 3, 5]
    train.prepare()
    train.prepare()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("Table: 2 of 5 training samples are left out, because their recordings are in ")
    with pytest.raises(ValueError, match="nothing is held out"):
        Table(table, exclude=args["exclude"])


def test_a_known_set_in_several_folders_is_read_from_each(tmp_path: Path) -> None:
    write_table("FSD50K", tmp_path / "one")
    write_table("FSD50K", tmp_path / "other")
    table = tmp_path / "other" / TABLES["FSD50K"][0]
    table.write_text(table.read_text().replace("37199", "5"))
    names = [f"FSD50K:{tmp_path / folder}" for folder in ("one", "other")]
    assert named(names, ["freesound:37199", "freesound:5", "freesound:6"]) == [True, True, False]


@pytest.mark.parametrize("name", KNOWN_SETS)
def test_a_missing_table_is_named_with_how_to_name_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f'^exclude is "{name}", but the table of {name} cannot') as caught:
        Exclusion(name)
    assert Path(TABLES[name][0]).name in str(caught.value)
    assert str(caught.value).endswith(f'Name the folder of {name}, as in "{name}:FOLDER".')
    assert "Dataset.args.root" not in str(caught.value), "that is the folder of the training data"
