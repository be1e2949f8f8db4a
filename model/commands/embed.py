"""`embed`: writes the embeddings of sounds and images to a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from ..own_name import how_to_install
from ..storage.atomic import whole_file
from .index import Entry, Index
from .messages import loader, name_unusable, open_weights
from .printing import say

_LARGEST_HEADER = 100_000_000  # bytes, the limit of safetensors


def embed(paths: Sequence[Path], out: Path, *, weights: str | None, batch_size: int | None) -> int:
    """Embed files, and write the embeddings to a .parquet or .safetensors file, replaced atomically.

    Args:
        paths: existing files and folders.
        out: file to write.
        weights: see `describe_weights`; None for the released ones.
        batch_size: number of sounds or images to embed at once; None for `BATCH_SIZES`.

    Returns:
        1 if a file is unusable, otherwise 0.

    Raises:
        ImportError: pyarrow is missing for a .parquet file.
        ValueError: There is no usable file.
    """
    if out.suffix == ".parquet":
        _require_pyarrow()
    index = Index(paths, open_weights(weights), batch_size=batch_size)
    update = index.update(loader(index.weights))
    say(index.summary(update))
    name_unusable(update.wrong)
    if not index.entries:
        raise ValueError(
            f"There is no {'usable ' if update.wrong else ''}sound or image; {out} is not written."
        )
    hashes = {path.name: sha256 for path, sha256 in index.weights_sha256.items()}
    facts = {"weights": index.weights.name, "weights_sha256": json.dumps(hashes)}
    write = _write_parquet if out.suffix == ".parquet" else _write_safetensors
    write(out, index.entries, facts)
    return 1 if update.wrong else 0


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise ImportError(
            f".parquet files need pyarrow, which cannot be imported ({error}): {how_to_install('parquet')}. "
            "A .safetensors file needs nothing more."
        ) from None


def _write_parquet(file: Path, entries: Sequence[Entry], facts: Mapping[str, str]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - optional
    from pyarrow import parquet  # noqa: PLC0415

    rows = np.stack([entry.embedding for entry in entries])
    table = pa.table(
        {
            "path": [entry.path for entry in entries],
            "kind": [entry.kind for entry in entries],
            "sha256": [entry.sha256 for entry in entries],
            "embedding": pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1]),
        }
    )
    with whole_file(file) as content:
        parquet.write_table(table.replace_schema_metadata(facts), content, use_dictionary=["kind"])


def _write_safetensors(file: Path, entries: Sequence[Entry], facts: Mapping[str, str]) -> None:
    lists = {
        "paths": json.dumps([entry.path for entry in entries]),
        "kinds": json.dumps([entry.kind for entry in entries]),
        "sha256": json.dumps([entry.sha256 for entry in entries]),
    }
    metadata = {**facts, **lists}
    if len(json.dumps(metadata)) > _LARGEST_HEADER - 1000:
        raise ValueError(f"{file}: too many files for .safetensors; write .parquet. The embeddings are kept.")
    rows = np.stack([entry.embedding for entry in entries])
    with whole_file(file) as content:
        content.write(save({"embeddings": rows}, metadata))
