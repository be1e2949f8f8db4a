"""The demo's page works in a real browser."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING, Any

import pytest

from demo import app
from demo.app import Queries, describe, make_application
from demo.made import made_collection
from model.audioclip import AudioCLIP
from model.commands.index import FolderIndex
from model.weights.described import LIMITS, describe_weights
from tests.browser import watched_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MARKUP = "<img src=x onerror=document.title='attacked'>.wav"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_collection(tmp_path_factory.mktemp("made") / "collection")
    (folder / "rain_2.wav").rename(folder / MARKUP)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def index(folder: Path, small_model: AudioCLIP, weights_folder: Path) -> FolderIndex:
    weights = describe_weights(str(weights_folder))
    index = FolderIndex(folder, weights, store=folder.parent / "store")
    index.update(lambda: small_model)
    return index


def serve(application: Any) -> Iterator[str]:
    """Serve from a separate thread, and yield the address."""
    ready: Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Queue()

    async def listen() -> None:
        server = application.listen(0, "127.0.0.1")
        port = next(iter(server._sockets.values())).getsockname()[1]
        stop = asyncio.Event()
        ready.put((asyncio.get_running_loop(), stop, port))
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    loop, stop, port = ready.get(timeout=60)
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture(scope="module")  # outlives the pages, which continue to load
def address(index: FolderIndex, small_model: AudioCLIP) -> Iterator[str]:
    update = index.update(lambda: small_model)
    about = {**describe(index, update, made=False), "limits": LIMITS}
    yield from serve(make_application(Queries(small_model, index), index, about))


def names(page: Page, kind: str) -> list[str]:
    """Return the paths in order of rank."""
    sources: list[str] = page.locator(f"#{kind} audio, #{kind} img").evaluate_all(
        "all => all.map(one => decodeURIComponent(one.getAttribute('src').split('/').slice(1).join('/')))"
    )
    return sources


def classify(page: Page, address: str, path: Path) -> None:
    """Open the page, and choose a file."""
    page.goto(address)
    page.set_input_files("#file", path)
    page.wait_for_selector("#classes li")


def all_play(page: Page, selector: str) -> bool:
    return bool(
        page.locator(selector).evaluate_all(
            """async players => (await Promise.all(players.map(async player => {
                player.muted = true;
                await player.play();
                return player.duration > 0.1 && !player.paused;
            }))).every(Boolean)"""
        )
    )


def all_seen(page: Page, selector: str) -> bool:
    return bool(
        page.locator(selector).evaluate_all(
            """async images => {
                for (const image of images) { image.loading = 'eager'; await image.decode(); }
                return images.every(image => image.naturalWidth > 0);
            }"""
        )
    )


def test_a_text_ranks_playable_sounds_and_visible_images(
    page: Page, address: str, index: FolderIndex, small_model: AudioCLIP
) -> None:
    page.goto(address)
    page.fill("#text", "a bell rings")
    page.press("#text", "Enter")
    page.wait_for_selector("#title >> text=“a bell rings”")
    query = small_model.embed_text("a bell rings").numpy()[0]
    assert names(page, "audio") == [match.path for match in index.rank(query, "audio", 12)]
    assert names(page, "image") == [match.path for match in index.rank(query, "image", 12)]
    assert (len(names(page, "audio")), len(names(page, "image"))) == (12, 6)
    assert all_play(page, "#audio audio") and all_seen(page, "#image img")


@pytest.mark.parametrize(("name", "kind"), [("siren_1.wav", "audio"), ("engine.png", "image")])
def test_a_chosen_file_finds_itself_and_is_classified(
    page: Page, address: str, folder: Path, name: str, kind: str
) -> None:
    page.goto(address)
    page.set_input_files("#file", folder / name)
    page.wait_for_selector(f"#title >> text=Like {name}")
    assert names(page, kind)[0] == name
    assert page.inner_text(f"#{kind} .score >> nth=0") == "1.000"
    assert all_play(page, "#audio audio") and all_seen(page, "#image img")
    assert all_play(page, "#subject audio") if kind == "audio" else all_seen(page, "#subject img")
    percents = [float(text.split()[-2]) for text in page.locator("#classes li").all_inner_texts()]
    assert len(percents) == 12 and percents == sorted(percents, reverse=True)
    assert sum(percents) == pytest.approx(100, abs=0.7)  # each is rounded to a tenth


def test_labels_can_be_edited_on_the_page(
    page: Page, address: str, folder: Path, small_model: AudioCLIP
) -> None:
    classify(page, address, folder / "rain.png")
    page.fill("#labels", "a dog\n\n  a drop of rain ")
    page.fill("#template", "a drawing of {}")
    image = small_model.embed_image(folder / "rain.png")
    text = small_model.embed_text(["a dog", "a drop of rain"], "a drawing of {}")
    expected = (small_model.logit_scale.exp().detach() * image @ text.T)[0].softmax(0).tolist()
    best = ["a dog", "a drop of rain"][expected.index(max(expected))]
    page.wait_for_selector(f"#classes li:first-child:has-text('{100 * max(expected):.1f} %')")
    assert page.inner_text("#classes li >> nth=0").startswith(best)
    assert page.locator("#classes li").count() == 2


def test_a_recording_is_embedded(page: Page, address: str) -> None:
    page.goto(address)
    page.click("#record")
    page.wait_for_selector("#record.on")
    page.wait_for_timeout(1200)
    page.click("#record")
    page.wait_for_selector("#title >> text=Like recording.wav")
    assert len(names(page, "audio")) == 12 and all_play(page, "#subject audio")


def test_more_like_this_searches_with_an_indexed_file(page: Page, address: str) -> None:
    page.goto(address)
    page.fill("#text", "x")
    page.click("#ask button")
    page.wait_for_selector("#image figure")
    chosen = names(page, "image")[3]
    page.locator("#image .more").nth(3).click()
    page.wait_for_selector(f"#title >> text=Like {chosen}")
    assert names(page, "image")[0] == chosen and page.locator("#classes li").count() == 12


def test_the_page_shows_limits_and_unusable_files(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#limits")
    assert page.inner_text("#limits") == LIMITS
    assert "12 sounds and 6 images" in page.inner_text("#about")
    page.click("#wrong summary")
    assert "broken.jpg: not decodable as an image" in page.inner_text("#wrong ul")


def describe_trained(index: FolderIndex, model: AudioCLIP, **facts: Any) -> dict[str, Any]:
    """Describe an index as if its weights came from a run with these labels and templates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "weights", replace(index.weights, **facts))
        return describe(index, index.update(lambda: model), made=False)


@pytest.fixture(scope="module")
def trained_address(index: FolderIndex, small_model: AudioCLIP) -> Iterator[str]:
    """Serve an index whose weights come from a run on two labels, one of them long."""
    labels = ("rain", "a_very_long_name of a class of sounds " * 3)
    about = describe_trained(index, small_model, trained_labels=labels)
    yield from serve(make_application(Queries(small_model, index), index, about))


def test_an_untrained_label_is_marked_and_explained(page: Page, trained_address: str, folder: Path) -> None:
    classify(page, trained_address, folder / "rain.png")
    assert page.locator("#classes li").count() == 2  # the run's labels come first
    assert "not trained" not in page.inner_text("#classes")
    assert "These weights come from a run on 2 labels: rain, a_very_long_name" in page.inner_text("#worth")
    page.fill("#labels", " Rain\nA very long name of a class of sounds\n<b>dog</b>")
    page.wait_for_selector("#classes li:has-text('<b>dog</b>')")
    lines = page.locator("#classes li").all_inner_texts()
    assert {line.split("\n")[0] for line in lines if "not trained" in line} == {
        "A very long name of a class of sounds",
        "<b>dog</b>",
    }


def test_a_label_in_another_template_is_marked(page: Page, trained_address: str, folder: Path) -> None:
    classify(page, trained_address, folder / "rain.png")
    page.fill("#template", "a sound of {}")
    page.wait_for_selector("#classes li:nth-child(2):has-text('not trained')")
    assert page.locator("#classes li:has-text('not trained')").count() == 2


def test_the_page_receives_the_trained_texts(index: FolderIndex, small_model: AudioCLIP) -> None:
    facts = {"trained_labels": ("dog", "rain"), "trained_templates": ("a {}", "the {}")}
    about = describe_trained(index, small_model, **facts)
    assert about["texts"] == ["a dog", "a rain", "the dog", "the rain"]
    assert about["template"] == "a {}"


def test_no_label_is_marked_if_trained_labels_are_unknown(page: Page, address: str, folder: Path) -> None:
    classify(page, address, folder / "rain.png")
    assert "not trained" not in page.inner_text("#classes")
    assert "add up to 100 %, even if none of the labels fits" in page.inner_text("#worth")


@pytest.mark.parametrize("width", [390, 830, 1280])
def test_the_page_fits_a_phone_and_a_desktop_without_splitting_words(
    page: Page, trained_address: str, folder: Path, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(trained_address)
    page.set_input_files("#file", folder / "siren_1.wav")
    page.wait_for_selector("#audio .sound")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.eval_on_selector_all(
        ".sound",
        """all => all.map(one => ['.name', 'audio'].map(part => {
            const {top, bottom, left, width} = one.querySelector(part).getBoundingClientRect();
            return {top, bottom, left, width};
        }))""",
    )
    assert all(name["width"] > 60 and player["width"] > 140 for name, player in boxes)
    below = [player["top"] >= name["bottom"] for name, player in boxes]
    assert all(below) if width < 1280 else not any(below)


def test_markup_in_names_and_labels_stays_text(page: Page, address: str, folder: Path) -> None:
    page.goto(address)
    page.fill("#labels", "<b>bold</b>")
    page.set_input_files("#file", folder / MARKUP)
    page.wait_for_selector("#audio .sound")
    assert MARKUP in page.inner_text("#audio") and "<b>bold</b>" in page.inner_text("#classes")
    assert page.title() == "AudioCLIP"


def test_the_page_shows_errors(chromium: Browser, address: str, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    with watched_page(chromium) as (page, _):
        page.goto(address)
        page.set_input_files("#file", tmp_path / "broken.wav")
        page.wait_for_selector("#error >> text=broken.wav: ")
        assert "not decodable as audio" in page.inner_text("#error")
        page.fill("#text", "word " * 200)
        page.click("#ask button")
        page.wait_for_selector("#error >> text=tokens")


def status(request: str | urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_only_indexed_files_are_served(address: str, folder: Path) -> None:
    (folder.parent / "secret.wav").write_bytes((folder / "siren_1.wav").read_bytes())
    assert status(f"{address}/sound/siren_1.wav") == 200
    assert status(f"{address}/picture/rain.png") == 200
    for path in ("sound/../secret.wav", "sound/%2e%2e/secret.wav", "sound/rain.png", "picture/broken.jpg"):
        assert status(f"{address}/{path}") == 404
    assert status(f"{address}/../app.py") in (403, 404)


def test_other_hosts_and_origins_are_refused(address: str) -> None:
    body = json.dumps({"text": "x"}).encode()
    ask = urllib.request.Request(f"{address}/rank", data=body)
    assert status(ask) == 200
    ask.add_header("Origin", "https://example.org")
    assert status(ask) == 403
    assert status(urllib.request.Request(f"{address}/about", headers={"Host": "example.org"})) == 404


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("rank", "[]"),
        ("rank", "{"),
        ("rank", '{"path": "rain.png", "k": 1}'),
        ("classify", '{"path": "rain.png"}'),
        ("classify", '{"path": "rain.png", "labels": null}'),
        ("classify", '{"path": "rain.png", "labels": "ab"}'),
    ],
)
def test_malformed_queries_are_refused(method: str, body: str, address: str) -> None:
    assert status(urllib.request.Request(f"{address}/{method}", data=body.encode())) == 400


def test_old_uploads_are_dropped(
    index: FolderIndex, small_model: AudioCLIP, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("demo.app.UPLOADS_KEPT", 2)
    queries = Queries(small_model, index)
    content = (folder / "rain.png").read_bytes()
    first, *_, last = [queries.take("rain.png", content)["upload"] for _ in range(3)]
    assert queries.rank(upload=last)["image"][0]["path"] == "rain.png"
    with pytest.raises(ValueError, match="Drop it again"):
        queries.rank(upload=first)
    with pytest.raises(ValueError, match="There are 0 labels; give 1 to 500"):
        queries.classify(upload=last, labels=[])


@pytest.mark.usefixtures("_loaded_before")
def test_without_a_folder_synthetic_examples_are_served(
    monkeypatch: pytest.MonkeyPatch, weights_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []

    async def stop(application: Any, port: int) -> None:
        served.append(application)
        assert port == 0
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_serve", stop)
    assert app.main(["--weights", str(weights_folder), "--port", "0"]) == 0
    assert len(served) == 1
    assert app.main(["nowhere", "--weights", str(weights_folder)]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
