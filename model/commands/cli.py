"""Parses the command line and runs its command; torch is only imported if a command runs."""

# ruff: noqa: PLC0415 (--help should be fast)

from __future__ import annotations

import argparse
import difflib
import io
import json
import os
import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any, NoReturn

from ..own_name import COMMAND
from .checks import (
    EMBEDDING_SUFFIXES,
    EXPORT_SUFFIXES,
    SCORES_COLUMNS,
    SCORES_SUFFIXES,
    UsageError,
    check_labels,
    check_output,
)
from .printing import say

_EPILOG = f"""\
  {COMMAND} embed ~/recordings photo.jpg --out embeddings.parquet
  {COMMAND} search "dog barking" --in ~/recordings
  {COMMAND} search --like bark.wav --in ~/recordings
  {COMMAND} search --in ~/recordings                   # reads queries from the terminal
  {COMMAND} classify bark.wav photo.jpg --labels dog rain "sea waves" --template "a sound of {{}}"
  {COMMAND} export AudioCLIP-Full-Training tower.onnx

Embeddings are kept in $AUDIOCLIP_CACHE (default: ~/.cache/audioclip), so a command embeds only new and
changed files, and the same command continues an interrupted one. Exit status: 0 on success; 1 on an error, if
embed or classify meets an unusable file (it names the file and uses the others), or if search reads a text
that is too long; 2 for an invalid command; 130 after Ctrl-C.
"""

_EMBED = """\
Write the embeddings of sounds and images to a file. A file in a folder is named by the folder's path as
given, joined with the path below it. Parquet: columns path, kind ("audio" or "image"), sha256, and
embedding (a list of float32 of fixed size); the metadata of the schema has "weights" and "weights_sha256".
Safetensors: the tensor "embeddings", float32 [N, D]; the metadata also has, as JSON, the lists "paths",
"kinds" and "sha256".
"""

_SEARCH = """\
Rank the files of folders. Sounds and images are ranked separately because their similarities to a text are
on different scales. The files of a single folder are named by the path below it. Unusable files are listed.
"""

_CLASSIFY = """\
Rank labels by probability. The probabilities of the labels add up to 1, even if no label is right. If the
weights come from a run, a warning lists the texts that the run was not trained on.
"""

_OUT_OF_MEMORY = f"""\
The memory of the GPU is full. Embed first with a smaller batch: `{COMMAND} embed ... --batch-size 1`; the
other commands use these embeddings. To use the CPU instead, set CUDA_VISIBLE_DEVICES=""."""

_EXPORT = """\
Export the audio tower of an AudioCLIP, or a zero-shot classifier with fixed classes, to a single file that
needs none of this code. Input: audio, float32 [batch, channels, samples] in 16-bit units at 44.1 kHz.
Output: embeddings of norm 1, or class probabilities.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of the process.

    Returns:
        The exit status: 0 on success; 1 on an error, if `embed` or `classify` meets an unusable file, or if
        `search` reads a text that is too long; 2 for an invalid command; 130 after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for characters that the terminal cannot encode
    given = _parser().parse_args(arguments)
    try:
        status = _run(given)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        kept = (
            "" if given.command == "export" else " Finished embeddings are kept; the same command continues."
        )
        say(f"Stopped.{kept}")
        return 130
    except BrokenPipeError:  # the reader has enough, as `head` has; Python flushes once more when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        say(str(error))
        return 2
    except (ValueError, OSError, ImportError) as error:  # WeightsError is a ValueError
        say(_message(error))
        return 1
    except RuntimeError as error:
        from torch import OutOfMemoryError

        if not isinstance(error, OutOfMemoryError):
            raise
        say(_OUT_OF_MEMORY)
        return 1


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return str(error)


def _run(given: argparse.Namespace) -> int:
    """Check the arguments, then run the command."""
    if given.command in ("embed", "classify"):
        given.paths = [path for pattern in given.paths for path in _matching(pattern)]
        # A broken link exists: as in a folder, it is only named.
        absent = [f"{path}: no such file or folder." for path in given.paths if not os.path.lexists(path)]
        if absent:
            raise FileNotFoundError("\n".join(absent))
    if given.command == "embed":
        check_output(given.out, EMBEDDING_SUFFIXES)
        from .embed import embed

        return embed(given.paths, given.out, weights=given.weights, batch_size=given.batch_size)
    if given.command == "classify":
        check_labels(given.labels, option="--labels")
        if given.out is not None:
            check_output(given.out, SCORES_SUFFIXES)
            for label in {*SCORES_COLUMNS} & {*given.labels}:
                raise UsageError(
                    f"--labels has {label!r}, which is another column of {given.out}; reword it."
                )
        from .classify import classify

        return classify(
            given.paths,
            given.labels,
            template=given.template,
            count=given.count,
            out=given.out,
            weights=given.weights,
        )
    if given.command == "search":
        if given.text is not None and not given.text.strip():
            raise UsageError("The text to search for is empty.")
        from .search import search

        return search(
            given.folders,
            text=given.text,
            like=given.like,
            count=given.count,
            weights=given.weights,
            store=given.store,
        )
    check_output(given.file, EXPORT_SUFFIXES)
    if given.classes is not None:
        check_labels(given.classes, option="--classes")
    elif given.template is not None:
        raise UsageError("--template needs --classes.")
    from .export import export

    export(
        given.weights,
        given.file,
        class_names=given.classes,
        template=given.template or "{}",
        model_args=given.model_args,
    )
    return 0


def _matching(pattern: Path) -> list[Path]:
    """List the files that match a pattern, which Windows' shell leaves to us; else return it unchanged."""
    found = [] if os.path.lexists(pattern) else sorted(glob(str(pattern)))  # noqa: PTH207 - any folder
    return [*map(Path, found)] or [pattern]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Embed, search and classify sounds and images with an AudioCLIP, or export it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Command)
    weights = _Command(add_help=False)
    weights.add_argument(
        "--weights",
        help="name of a release, a weights file, a run folder, or a folder written by save_pretrained; "
        '"untrained" for random weights; default: AudioCLIP-Full-Training, which is downloaded once',
    )
    paths = _Command(add_help=False, parents=[weights])
    paths.add_argument("paths", nargs="+", type=_path, metavar="PATH", help="sounds, images and folders")

    embed = commands.add_parser(
        "embed", parents=[paths], description=_EMBED, help="write embeddings to a file"
    )
    embed.add_argument(
        "--out", type=_path, required=True, metavar="FILE", help="file to write: .parquet or .safetensors"
    )
    embed.add_argument(
        "--batch-size",
        type=_positive,
        metavar="N",
        help="sounds or images to embed at once (default: 8 sounds, 32 images)",
    )

    search = commands.add_parser(
        "search", parents=[weights], description=_SEARCH, help="rank the files of folders"
    )
    query = search.add_mutually_exclusive_group()
    query.add_argument(
        "text", nargs="?", help="text to search for; default: read texts line by line from stdin"
    )
    query.add_argument("--like", type=_path, metavar="FILE", help="sound or image to search by")
    search.add_argument(
        "--in",
        dest="folders",
        nargs="+",
        type=_path,
        required=True,
        metavar="FOLDER",
        help="folders to search; a text comes before them",
    )
    search.add_argument(
        "-n", "--count", type=_positive, default=10, help="sounds and images to show, each (default: 10)"
    )
    search.add_argument(
        "--store",
        type=_path,
        metavar="FOLDER",
        help="folder in which a subfolder keeps the embeddings; default: the cache folder",
    )

    classify = commands.add_parser(
        "classify", parents=[paths], description=_CLASSIFY, help="rank labels by probability"
    )
    classify.add_argument(
        "--labels", nargs="+", action="extend", required=True, metavar="LABEL", help="candidate labels"
    )
    classify.add_argument(
        "--template", default="{}", help="prompt template, with {} where the label goes (default: {})"
    )
    classify.add_argument(
        "-n", "--count", type=_positive, default=10, help="labels to print per file (default: 10)"
    )
    classify.add_argument(
        "--out",
        type=_path,
        metavar="FILE",
        help=".csv to write instead of printing: columns path, kind, and one for each label",
    )

    export = commands.add_parser(
        "export",
        description=_EXPORT,
        help="write the audio tower or a classifier as ONNX or for torch.export",
    )
    export.add_argument("weights", help="name of a release, weights file, folder or hub repository")
    export.add_argument("file", type=_path, help="file to write: .onnx, or .pt2 for torch.export.load")
    export.add_argument("--classes", nargs="+", metavar="NAME", help="classes of a zero-shot classifier")
    export.add_argument(
        "--template", help="prompt template, with {} where the class goes (default: {}); needs --classes"
    )
    export.add_argument(
        "--model-args",
        type=_json_object,
        default={},
        metavar="JSON",
        help="constructor arguments that differ from the published model's",
    )
    return parser


class _Command(argparse.ArgumentParser):
    """Parses the arguments of a command; its errors name misspelt options and suggest similar ones."""

    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = args or ()
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        for word in self._words:
            name = word.partition("=")[0]
            if name.startswith("--") and not any(
                option.startswith(name) for option in self._option_string_actions
            ):
                near = difflib.get_close_matches(name, self._option_string_actions, n=1)
                message += f"; there is no option {name}" + "".join(f", did you mean {o}?" for o in near)
        if message.endswith("required: PATH") and "--labels" in self._words:
            message += " (before --labels, which takes all words that follow it as labels)"
        super().error(message)


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # noqa: PTH111 - keeps "~" if there is no home


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _json_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is not a JSON object such as {{"n_fft": 1024}}')
    return content
