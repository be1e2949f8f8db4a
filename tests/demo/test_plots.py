"""Plots and tables of the notebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from demo.made import made_collection
from demo.plots import Item, image_item, name_of, ranking_table, show_similarities, sound_item

SIMILARITIES = np.array([[0.1, 0.9, -0.3], [0.25, 0.2, 0.7]])


def test_the_heat_map_shows_matrix_and_items(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "rain_1.wav", np.linspace(-0.5, 0.5, 44100), 44100)
    Image.new("RGB", (600, 300), "red").save(tmp_path / "cat_2.png")
    sound, image = sound_item(tmp_path / "rain_1.wav"), image_item(tmp_path / "cat_2.png")
    columns = [Item("a"), Item("b"), sound]
    figure = show_similarities(SIMILARITIES, [sound, image], columns, logits=10 * SIMILARITIES, title="<x>")
    (heat,) = (axes for axes in figure.axes if axes.get_label() == "similarities")
    odds = np.exp(10 * SIMILARITIES)
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(heat.images[0].get_array()), expected)
    assert [text.get_text() for text in heat.texts] == ["0.10", "0.90", "-0.30", "0.25", "0.20", "0.70"]
    others = [axes for axes in figure.axes if axes is not heat]
    assert [axes.get_title() for axes in others] == ["", "", "rain", "rain", "cat"]
    assert np.asarray(others[4].images[0].get_array()).shape == (100, 200, 3)
    FigureCanvasAgg(figure).draw()


def test_noise_is_not_stretched_over_all_colours() -> None:
    noise = np.array([[0.1, 0.102], [0.5, 0.501]])  # each row has its own level
    items = [Item("a"), Item("b")]
    figure = show_similarities(noise, items, items, logits=20 * noise, title="")
    (heat,) = (axes for axes in figure.axes if axes.get_label() == "similarities")
    assert heat.images[0].get_clim() == (0, 1)
    shown = np.asarray(heat.images[0].get_array())
    assert shown == pytest.approx(np.full((2, 2), 0.5), abs=0.011)


def test_a_waveform_shows_the_extremes_of_its_parts(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 44100)
    soundfile.write(tmp_path / "x.wav", samples, 44100, subtype="FLOAT")
    waveform = sound_item(tmp_path / "x.wav").waveform
    assert waveform is not None and waveform.shape == (2, 400)
    assert waveform[0].min() == pytest.approx(32768 * samples.min(), rel=1e-6)
    assert waveform[1].max() == pytest.approx(32768 * samples.max(), rel=1e-6)


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has shape \[2, 3\]; these rows and columns need \[1, 1\]"):
        show_similarities(SIMILARITIES, [Item("a")], [Item("b")], logits=SIMILARITIES, title="")


def test_the_table_ranks_the_columns_for_each_row() -> None:
    assert ranking_table(SIMILARITIES, ["q", "r"], ["a", "b", "c"], k=2).splitlines() == [
        "| query | 1. | 2. |",
        "|---|---|---|",
        "| q | b 0.90 | a 0.10 |",
        "| r | c 0.70 | a 0.25 |",
    ]


@pytest.mark.parametrize(
    ("path", "name"),
    [("car_horn_1-24074-A-43.wav", "car horn"), ("3.wav", "3"), ("Dog barking.flac", "Dog barking")],
)
def test_names_are_the_words_of_a_file_name(path: str, name: str) -> None:
    assert name_of(Path(path)) == name


def test_the_synthetic_collection_has_two_sounds_and_a_drawing_per_class(tmp_path: Path) -> None:
    folder = made_collection(tmp_path / "made")
    assert made_collection(tmp_path / "made") == folder  # made only once
    sounds = {path.name: soundfile.info(path) for path in folder.glob("*.wav")}
    assert len(sounds) == 12 and {about.duration for about in sounds.values()} == {3.0}
    drawings = [Image.open(path).convert("RGB") for path in folder.glob("*.png")]
    assert len({image.tobytes() for image in drawings}) == 6
