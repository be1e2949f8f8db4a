"""What the page asks: rankings and zero-shot classification, by text, file of the index or file sent."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from demo.indexing import Embedding, FolderIndex, embed_files
from model.audioclip import AudioCLIP
from model.zero_shot import KINDS, SUFFIXES, Kind, embed_labels, label_probabilities

UPLOADS_KEPT = 100
MOST_LABELS = 500


class Upload(NamedTuple):
    """A file that was sent, of which only this is kept."""

    kind: Kind
    embedding: Embedding


class Queries:
    """Answers questions about the files of an index; not to be used by two threads at a time.

    A query is a mapping with one of `text`; `path`, of a file in the index; `upload`, what `take` gave.

    Args:
        model: that the index was made with, in eval mode.
        index: brought up to date.
    """

    def __init__(self, model: AudioCLIP, index: FolderIndex) -> None:
        self._model, self._index = model, index
        self._uploads: dict[str, Upload] = {}

    def take(self, name: str, content: bytes) -> dict[str, str]:
        """Embed a file that was sent: `upload` names it in queries, `kind` says what it is.

        Raises:
            ValueError: it cannot be used.
        """
        suffix = Path(name).suffix.lower()
        kind = SUFFIXES.get(suffix)
        if kind is None:
            raise ValueError(f"{name}: neither a sound nor a picture by its name.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file{suffix}"
            path.write_bytes(content)
            (result,) = embed_files(self._model, kind, [path])
        if isinstance(result, str):
            raise ValueError(f"{name}: {result}")
        upload = secrets.token_urlsafe(12)
        self._uploads[upload] = Upload(kind, result)
        if len(self._uploads) > UPLOADS_KEPT:
            self._uploads.pop(next(iter(self._uploads)))
        return {"upload": upload, "kind": kind}

    def rank(self, query: dict[str, Any], *, count: int = 12) -> dict[str, list[dict[str, Any]]]:
        """Rank the files of each kind: for each its path and its similarity, best first.

        Raises:
            ValueError: there is no such file, or the text is too long.
        """
        if "text" in query:
            embedding: Embedding = self._model.embed_text(str(query["text"])).cpu().numpy()[0]
        else:
            embedding = self._file(query).embedding
        return {
            kind: [match._asdict() for match in self._index.rank(embedding, kind, count)] for kind in KINDS
        }

    def classify(
        self, query: dict[str, Any], labels: Sequence[str], *, template: str = "{}"
    ) -> list[dict[str, Any]]:
        """Say how probable each label is, as `AudioCLIP.classify` does, best first.

        Raises:
            ValueError: there is no such file, no label, too many, one twice, or a text is too long.
        """
        if not 1 <= len(labels) <= MOST_LABELS:
            raise ValueError(f"{len(labels)} labels are given; 1 to {MOST_LABELS} are possible.")
        file = self._file(query)
        features = torch.from_numpy(file.embedding[None].copy()).to(self._model.device)
        texts = embed_labels(self._model, [str(label) for label in labels], template)
        probabilities = label_probabilities(self._model, file.kind, features, texts)[0].tolist()
        found = [
            {"label": str(label), "probability": p} for label, p in zip(labels, probabilities, strict=True)
        ]
        return sorted(found, key=lambda line: -line["probability"])

    def _file(self, query: dict[str, Any]) -> Upload:
        if (upload := self._uploads.get(str(query.get("upload")))) is not None:
            return upload
        path = str(query.get("path"))
        embedding = self._index.embedding(path)
        if embedding is None:
            raise ValueError("This file is not there (any more). Drop it again.")
        return Upload(SUFFIXES[Path(path).suffix.lower()], embedding)
