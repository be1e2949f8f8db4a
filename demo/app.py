"""A page to search a folder by text, sound and picture, and to classify: `python demo/app.py --help`.

Tornado serves it, which Visdom brings along anyway. Gradio would bring forty packages, scripts and fonts from
elsewhere. The server listens on the loopback address alone; the page asks for nothing beyond this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.indexing import FolderIndex, Update
from demo.made import made_collection
from demo.queries import Queries
from demo.weights import Weights, find_demo_weights
from ignite_trainer.support.terminal import replace_unknown_letters
from model.clip.image_input import read_image
from model.weights.releases import WeightsError
from model.zero_shot import KINDS

HOST, PORT = "127.0.0.1", 7860
LARGEST_UPLOAD = 100 * 2**20
_PAGE = Path(__file__).parent / "page"
_THUMBNAIL = 640  # pixels, the longer side at most
_POLICY = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'"


class _Handler(RequestHandler):
    def initialize(self, queries: Queries, index: FolderIndex, about: dict[str, Any], pool: Any) -> None:
        self.queries, self.index, self.about, self.pool = queries, index, about, pool

    def prepare(self) -> None:
        """Refuse what a page of somebody else's asks for."""
        origin = self.request.headers.get("Origin")
        if origin is not None and origin != f"{self.request.protocol}://{self.request.host}":
            raise HTTPError(403)

    async def answer(self, work: Callable[[], Any]) -> None:
        """Compute in the one thread that may use the model; a ValueError is for the reader."""
        try:
            self.finish({"answer": await asyncio.get_running_loop().run_in_executor(self.pool, work)})
        except ValueError as error:
            self.set_status(400)
            self.finish({"error": str(error)})

    def question(self) -> dict[str, Any]:
        """The body, a JSON object."""
        try:
            content = json.loads(self.request.body)
        except ValueError as error:
            raise HTTPError(400) from error
        if not isinstance(content, dict):
            raise HTTPError(400)
        return content


class _About(_Handler):
    def get(self) -> None:
        self.finish(self.about)


class _Upload(_Handler):
    async def post(self) -> None:
        name, content = self.get_query_argument("name"), self.request.body
        await self.answer(lambda: self.queries.take(name, content))


class _Rank(_Handler):
    async def post(self) -> None:
        query = self.question()
        await self.answer(lambda: self.queries.rank(query))


class _Classify(_Handler):
    async def post(self) -> None:
        query = self.question()
        labels, template = query.get("labels"), query.get("template", "{}")
        if not isinstance(labels, list) or not isinstance(template, str):
            raise HTTPError(400)
        await self.answer(lambda: self.queries.classify(query, labels, template=template))


class _Picture(_Handler):
    async def get(self, path: str) -> None:
        if path not in self.index.paths("image"):
            raise HTTPError(404)
        content = await asyncio.get_running_loop().run_in_executor(None, _thumbnail, self.index.folder / path)
        self.set_header("Content-Type", "image/jpeg")
        self.finish(content)


def _thumbnail(path: Path) -> bytes:
    """A picture as every browser can show it, upright, no larger than is needed."""
    picture, encoded = read_image(path), io.BytesIO()
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    picture.save(encoded, "JPEG", quality=88)
    return encoded.getvalue()


class _Sound(StaticFileHandler):
    def initialize(self, path: str, index: FolderIndex) -> None:  # type: ignore[override]
        super().initialize(path)
        self.index = index

    async def get(self, path: str, include_body: bool = True) -> None:
        if path not in self.index.paths("audio"):
            raise HTTPError(404)
        await super().get(path, include_body)


class _Static(StaticFileHandler):
    def set_extra_headers(self, path: str) -> None:  # noqa: ARG002 - tornado's name
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Cache-Control", "no-cache")


def make_application(queries: Queries, index: FolderIndex, about: dict[str, Any]) -> Application:
    """Put the page together; requests under any other name than this machine's own are not answered."""
    shared = {"queries": queries, "index": index, "about": about, "pool": ThreadPoolExecutor(1)}
    application = Application()
    application.add_handlers(
        r"127\.0\.0\.1|localhost",
        [
            (r"/about", _About, shared),
            (r"/upload", _Upload, shared),
            (r"/rank", _Rank, shared),
            (r"/classify", _Classify, shared),
            (r"/picture/(.+)", _Picture, shared),
            (r"/sound/(.+)", _Sound, {"path": str(index.folder), "index": index}),
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


def _worth(weights: Weights) -> str:
    """Say what the percentage of a label is worth, above all of one that was not trained."""
    share = "The percentages share 100 % among the labels listed, even where none of them fits. "
    if not weights.trained_labels:
        return share + (
            "That of a label unlike those that the weights were trained on (the released ones: classes of "
            "AudioSet and captions of pictures) is far less reliable, however high it is."
        )
    return share + (
        f"{weights.trained_on} That of any other label, which is marked “not trained”, is far less reliable, "
        "however high it is."
    )


def main(arguments: Sequence[str]) -> int:
    """Serve the page until Ctrl-C; 0: stopped, 1: it could not be served."""
    replace_unknown_letters()
    parser = argparse.ArgumentParser(prog="python demo/app.py", description="A page to search and classify.")
    parser.add_argument("folder", nargs="?", help="of sounds and pictures; default: some that are made")
    parser.add_argument("--weights", help="as for demo/search.py")
    parser.add_argument("--port", type=int, default=PORT, help=f"0: a free one; default: {PORT}")
    given = parser.parse_args(arguments)
    try:
        weights = find_demo_weights(given.weights)
        index = FolderIndex(given.folder or made_collection(), weights)
        model = weights.load()
        update = index.update(lambda: model)
        about = describe(index, update, made=given.folder is None)
        asyncio.run(_serve(make_application(Queries(model, index), index, about), given.port))
    except KeyboardInterrupt:
        return 0
    except (WeightsError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


async def _serve(application: Application, port: int) -> None:
    server = application.listen(port, HOST, max_buffer_size=LARGEST_UPLOAD)
    chosen = next(iter(server._sockets.values())).getsockname()[1]
    print(f"http://{HOST}:{chosen}  (Ctrl-C ends it)", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
