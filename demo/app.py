"""Web page that searches a folder and classifies files: `python demo/app.py --help`.

Tornado, which Visdom requires anyway, serves the page; Gradio would add forty packages and remote scripts
and fonts. The server listens on the loopback address only, and the page loads nothing from other machines.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import inspect
import io
import json
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.made import made_collection
from ignite_trainer.support.terminal import replace_unknown_letters
from model.audioclip import AudioCLIP
from model.clip.image_input import read_image
from model.commands.embedding import Unusable, embed_files, score_labels
from model.commands.index import FolderIndex, Update
from model.commands.store import Embedding
from model.weights.described import DescribedWeights, describe_weights, released_or_untrained
from model.zero_shot import KINDS, SUFFIXES, Kind, embed_labels

HOST, PORT = "127.0.0.1", 7860
LARGEST_UPLOAD = 100 * 2**20
UPLOADS_KEPT = 100
MAX_LABELS = 500
SHOWN = 12
"""Number of files of each kind in a ranking."""
_PAGE = Path(__file__).parent / "page"
_THUMBNAIL = 640  # maximum length of the longer side, in pixels
_POLICY = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'"


class Upload(NamedTuple):
    """An uploaded file, reduced to its kind and embedding."""

    kind: Kind
    embedding: Embedding


class Queries:
    """Rankings and zero-shot classification for a text, an indexed file or an upload; not thread-safe.

    A file is given by its `path` in the index, or by the `upload` that `take` returned.

    Args:
        model: model that computed the index's embeddings, in eval mode.
        index: an up-to-date index.
    """

    def __init__(self, model: AudioCLIP, index: FolderIndex) -> None:
        self._model, self._index = model, index
        self._uploads: dict[str, Upload] = {}

    def take(self, name: str, content: bytes) -> dict[str, str]:
        """Embed an uploaded file; return its `upload` key, for queries, and its `kind`.

        Raises:
            ValueError: The file is unusable.
        """
        suffix = Path(name).suffix.lower()
        kind = SUFFIXES.get(suffix)
        if kind is None:
            raise ValueError(f"{name}: neither a sound nor an image by its suffix.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file{suffix}"
            path.write_bytes(content)
            (result,) = embed_files(self._model, kind, [path])
        if isinstance(result, Unusable):
            raise ValueError(f"{name}: {result.reason}")
        upload = secrets.token_urlsafe(12)
        self._uploads[upload] = Upload(kind, result)
        if len(self._uploads) > UPLOADS_KEPT:
            self._uploads.pop(next(iter(self._uploads)))
        return {"upload": upload, "kind": kind}

    def rank(
        self, *, text: str | None = None, path: str = "", upload: str = ""
    ) -> dict[str, list[dict[str, Any]]]:
        """Rank the files of each kind by a text or a file, best first; return their paths and similarities.

        Raises:
            ValueError: The file does not exist, or the text is too long.
        """
        if text is None:
            embedding = self._file(path, upload).embedding
        else:
            embedding = self._model.embed_text(text).cpu().numpy()[0]
        return {
            kind: [match._asdict() for match in self._index.rank(embedding, kind, SHOWN)] for kind in KINDS
        }

    def classify(
        self, *, labels: Sequence[str], template: str = "{}", path: str = "", upload: str = ""
    ) -> list[dict[str, Any]]:
        """Return the probability of each label, most probable first, computed as in `AudioCLIP.classify`.

        Raises:
            ValueError: The file does not exist; there are no labels, too many or duplicates; or a text is too
                long.
        """
        if not isinstance(labels, list):
            raise ValueError("labels is not a list.")
        if not 1 <= len(labels) <= MAX_LABELS:
            raise ValueError(f"There are {len(labels)} labels; give 1 to {MAX_LABELS}.")
        kind, embedding = self._file(path, upload)
        texts = embed_labels(self._model, labels, template)
        scores = score_labels(self._model, kind, embedding, texts)
        ranked = sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])
        return [{"label": label, "probability": probability} for label, probability in ranked]

    def _file(self, path: str, upload: str) -> Upload:
        if upload in self._uploads:
            return self._uploads[upload]
        embedding = self._index.embedding(path)
        if embedding is None:
            raise ValueError("This file no longer exists. Drop it again.")
        return Upload(SUFFIXES[Path(path).suffix.lower()], embedding)


class _Handler(RequestHandler):
    def prepare(self) -> None:
        """Refuse requests from other sites' pages."""
        origin = self.request.headers.get("Origin")
        if origin is not None and origin != f"{self.request.protocol}://{self.request.host}":
            raise HTTPError(403)

    async def answer(self, work: Callable[[], Any]) -> None:
        """Run `work` in the only thread that uses the model; show a ValueError to the user."""
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self.settings["pool"], work)
            self.finish({"answer": answer})
        except ValueError as error:
            self.set_status(400)
            self.finish({"error": str(error)})


class _About(_Handler):
    def get(self) -> None:
        self.finish(self.settings["about"])


class _Upload(_Handler):
    async def post(self) -> None:
        name, content = self.get_query_argument("name"), self.request.body
        await self.answer(lambda: self.settings["queries"].take(name, content))


class _Query(_Handler):
    async def post(self, method: str) -> None:
        """Call `rank` or `classify` with the arguments in the request."""
        try:
            work = functools.partial(
                getattr(self.settings["queries"], method), **json.loads(self.request.body)
            )
            inspect.signature(work).bind()
        except (ValueError, TypeError) as error:
            raise HTTPError(400) from error
        await self.answer(work)


class _Picture(_Handler):
    async def get(self, path: str) -> None:
        index = self.settings["index"]
        if path not in index.paths("image"):
            raise HTTPError(404)
        content = await asyncio.get_running_loop().run_in_executor(None, _thumbnail, index.folder / path)
        self.set_header("Content-Type", "image/jpeg")
        self.finish(content)


def _thumbnail(path: Path) -> bytes:
    """Return a small, upright JPEG, which any browser can show."""
    picture, encoded = read_image(path), io.BytesIO()
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    picture.save(encoded, "JPEG", quality=88)
    return encoded.getvalue()


class _Sound(StaticFileHandler):
    async def get(self, path: str, include_body: bool = True) -> None:
        if path not in self.settings["index"].paths("audio"):
            raise HTTPError(404)
        await super().get(path, include_body)


class _Static(StaticFileHandler):
    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 - tornado's name
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cache-Control", "no-cache")


def make_application(queries: Queries, index: FolderIndex, about: dict[str, Any]) -> Application:
    """Build the web application; it only answers requests addressed to localhost."""
    application = Application(queries=queries, index=index, about=about, pool=ThreadPoolExecutor(1))
    application.add_handlers(
        r"127\.0\.0\.1|localhost",
        [
            (r"/about", _About),
            (r"/upload", _Upload),
            (r"/(rank|classify)", _Query),
            (r"/picture/(.+)", _Picture),
            (r"/sound/(.+)", _Sound, {"path": str(index.folder)}),
            (r"/(.*)", _Static, {"path": str(_PAGE), "default_filename": "index.html"}),
        ],
    )
    return application


def describe(index: FolderIndex, update: Update, *, made: bool) -> dict[str, Any]:
    """Describe the folder and the model for the page, as JSON types."""
    return {
        "folder": "the synthetic examples" if made else str(index.folder),
        "counts": {kind: len(index.paths(kind)) for kind in KINDS},
        "weights": index.weights.name,
        "limits": index.weights.limits,
        "trained": list(index.weights.trained_labels),
        "texts": index.weights.trained_texts,
        "template": index.weights.trained_templates[0],
        "worth": _worth(index.weights),
        "wrong": update.wrong,
    }


def _worth(weights: DescribedWeights) -> str:
    """Explain how reliable a label's percentage is, particularly if the label is untrained."""
    share = "The percentages of the listed labels add up to 100 %, even if none of the labels fits. "
    if not weights.trained_labels:
        return share + (
            "The percentage of a label unlike the training labels (for the released weights, AudioSet "
            "classes and image captions) is far less reliable, however high it is."
        )
    return share + (
        f"{weights.trained_on} The percentage of any other label, marked “not trained”, is far less "
        "reliable, however high it is."
    )


def main(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; return 0, or 1 on an error."""
    replace_unknown_letters()
    parser = argparse.ArgumentParser(
        prog="python demo/app.py", description="Serve a web page to search a folder and classify files."
    )
    parser.add_argument(
        "folder", nargs="?", help="folder with sounds and images; default: a folder of synthetic examples"
    )
    parser.add_argument(
        "--weights",
        help="name of a release, a weights file, a run folder, or a folder written by save_pretrained; "
        "default: the released weights if they are in assets/, otherwise random weights",
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"port; 0 picks a free one (default: {PORT})")
    given = parser.parse_args(arguments)
    try:
        weights = describe_weights(given.weights or released_or_untrained())
        index = FolderIndex(given.folder or made_collection(), weights)
        model = weights.load()
        update = index.update(lambda: model)
        about = describe(index, update, made=given.folder is None)
        asyncio.run(_serve(make_application(Queries(model, index), index, about), given.port))
    except KeyboardInterrupt:
        return 0
    except (ValueError, OSError) as error:  # WeightsError is a ValueError
        print(error, file=sys.stderr)
        return 1
    return 0


async def _serve(application: Application, port: int) -> None:
    server = application.listen(port, HOST, max_buffer_size=LARGEST_UPLOAD)
    chosen = next(iter(server._sockets.values())).getsockname()[1]
    print(f"http://{HOST}:{chosen}  (Ctrl-C to stop)", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
