"""Search for sounds and images by text or example, and classify files: `python demo/search.py --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.indexing import Embedding, FolderIndex, Update, embed_files, rank_labels
from demo.weights import Weights, find_demo_weights
from ignite_trainer.support.formatting import escaped
from ignite_trainer.support.terminal import replace_unknown_letters
from model.audioclip import AudioCLIP
from model.weights.releases import WeightsError
from model.zero_shot import KINDS, embed_labels, kind_of

_TITLES = {"audio": "Sounds", "image": "Images"}
_WRONG_SHOWN = 20

_EPILOG = """\
  python demo/search.py index ~/recordings
  python demo/search.py search "dog barking" --in ~/recordings
  python demo/search.py search --like bark.wav --in ~/recordings
  python demo/search.py search --in ~/recordings                   # reads queries from the terminal
  python demo/search.py classify bark.wav photo.jpg --labels dog rain "sea waves" --template "a sound of {}"

Embeddings are stored in $AUDIOCLIP_CACHE (default: ~/.cache/audioclip). A search first embeds new and changed
files. Sounds and images are ranked separately because their similarities to a text are on different scales.
The probabilities of the labels add up to 1, even if no label is right. If the weights come from a run, a
warning lists the labels or texts that the run was not trained on.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Returns:
        The exit status: 0 on success, 1 on an error or if `classify` meets an unusable file, 130 after
        Ctrl-C. Unusable files in an indexed folder are only listed.
    """
    replace_unknown_letters()
    given = _parser().parse_args(arguments)
    try:
        if getattr(given, "count", 1) < 1:
            raise ValueError(f"--count is {given.count}; it must be positive.")
        if given.command == "classify":
            _check_labels(given.labels)
        weights = find_demo_weights(given.weights)
        if (
            given.weights
            and weights.source != (folder := Path(given.weights).expanduser())
            and folder.is_dir()
        ):
            print(f"{given.weights}: {weights.source}", file=sys.stderr)
        if weights.limits:
            print(weights.limits, file=sys.stderr)
        model = cache(weights.load)
        if given.command == "classify":
            _warn_of_untrained(weights, given.labels, given.template)
            return _classify(model, given.files, given.labels, template=given.template, count=given.count)
        index = FolderIndex(given.folder, weights, store=given.store)
        _report(index.update(model), index)
        if given.command == "search":
            _search(index, model, text=given.text, like=given.like, count=given.count)
    except KeyboardInterrupt:
        print("Stopped. Finished embeddings are kept; run the same command to resume.", file=sys.stderr)
        return 130
    except (WeightsError, ValueError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python demo/search.py",
        description="Search for sounds and images by text or example, or classify files.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    weights = argparse.ArgumentParser(add_help=False)
    weights.add_argument(
        "--weights",
        help="name of a release, a weights file, a run folder, or a folder written by save_pretrained; "
        "default: the released weights if they are in assets/, otherwise random weights",
    )
    common = argparse.ArgumentParser(add_help=False, parents=[weights])
    common.add_argument(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="folder for the embeddings; default: a subfolder of the cache folder",
    )
    index = commands.add_parser("index", parents=[common], help="embed the new files of a folder")
    index.add_argument("folder", type=Path, help="folder with sounds and images")
    search = commands.add_parser("search", parents=[common], help="rank the files of a folder")
    query = search.add_mutually_exclusive_group()
    query.add_argument(
        "text", nargs="?", help="text to search for; default: read texts line by line from stdin"
    )
    query.add_argument("--like", type=Path, metavar="FILE", help="sound or image to search by")
    search.add_argument(
        "--in", dest="folder", type=Path, required=True, metavar="FOLDER", help="folder to search"
    )
    search.add_argument(
        "-n", "--count", type=int, default=10, help="sounds and images to show, each (default: 10)"
    )
    classify = commands.add_parser("classify", parents=[weights], help="rank labels by probability")
    classify.add_argument("files", nargs="+", type=Path, metavar="FILE", help="sounds and images")
    classify.add_argument(
        "--labels", nargs="+", action="extend", required=True, metavar="LABEL", help="candidate labels"
    )
    classify.add_argument(
        "--template", default="{}", help="prompt template, with {} where the label goes (default: {})"
    )
    classify.add_argument("-n", "--count", type=int, default=10, help="labels to show per file (default: 10)")
    return parser


def _report(update: Update, index: FolderIndex) -> None:
    found = {"sound": len(index.paths("audio")), "image": len(index.paths("image"))}
    counts = ", ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in found.items())
    print(
        f"{counts}; newly embedded: {update.embedded}, removed: {update.removed}, "
        f"unusable: {len(update.wrong)}",
        file=sys.stderr,
    )
    for path, why in [*update.wrong.items()][:_WRONG_SHOWN]:
        print(f"  {escaped(path)}: {escaped(why)}", file=sys.stderr)
    if len(update.wrong) > _WRONG_SHOWN:
        print(f"  ... and {len(update.wrong) - _WRONG_SHOWN} more", file=sys.stderr)


def _search(
    index: FolderIndex, load: Callable[[], AudioCLIP], *, text: str | None, like: Path | None, count: int
) -> None:
    if like is not None:
        _show(index, embed_query(load(), like), count)
    elif text is not None:
        _warn_of_untrained(index.weights, [text])
        _show(index, load().embed_text(text).cpu().numpy()[0], count)
    else:
        model, warned = load(), False
        while line := _ask():
            warned = warned or _warn_of_untrained(index.weights, [line])
            try:
                _show(index, model.embed_text(line).cpu().numpy()[0], count)
            except ValueError as error:  # too long
                print(error, file=sys.stderr)


def _warn_of_untrained(weights: Weights, labels: Sequence[str], template: str = "{}") -> bool:
    """Warn about labels that do not form training texts in this template; return whether there are any."""
    caveat = weights.caveat(labels, template)
    if caveat:
        print(escaped(caveat), file=sys.stderr)
    return caveat is not None


def _ask() -> str:
    """Read the next text from stdin; an empty text means the end."""
    if sys.stdin.isatty():
        print("Text (empty to end): ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def embed_query(model: AudioCLIP, path: Path) -> Embedding:
    """Return the embedding `[D]` of a sound or image; raise ValueError for any other or unusable file."""
    kind = kind_of(path, name=str(path))
    (result,) = embed_files(model, kind, [path])
    if isinstance(result, str):
        raise ValueError(f"{path}: {result}")
    return result


def _check_labels(labels: Sequence[str]) -> None:
    """Raise ValueError for likely mistakes in a command: a single label, or a file among the labels."""
    if len(labels) < 2:
        raise ValueError(f"--labels has only {labels[0]!r}; give two or more, separated by spaces.")
    for label in labels:
        if Path(label).suffix and Path(label).is_file():
            raise ValueError(f"--labels has {label!r}, which is a file; name files before --labels.")


def _classify(
    load: Callable[[], AudioCLIP], paths: Sequence[Path], labels: Sequence[str], *, template: str, count: int
) -> int:
    """Print the most probable labels of each file; return 1 if a file is unusable."""
    model = load()
    texts = embed_labels(model, labels, template)
    wrong = False
    for path in paths:
        try:
            kind, features = kind_of(path, name=str(path)), embed_query(model, path)
        except ValueError as error:
            print(escaped(str(error)), file=sys.stderr)
            wrong = True
            continue
        print(escaped(str(path)))
        for label, probability in rank_labels(model, kind, features, labels, texts)[:count]:
            print(f"  {probability:6.3f}  {escaped(label)}")
    return int(wrong)


def _show(index: FolderIndex, query: Embedding, count: int) -> None:
    for kind in KINDS:
        if matches := index.rank(query, kind, count):
            print(_TITLES[kind])
        for place, match in enumerate(matches, start=1):
            print(f"{place:3}  {match.similarity:6.3f}  {escaped(match.path)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
