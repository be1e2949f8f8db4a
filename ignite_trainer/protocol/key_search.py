"""Finds the keys and flags that somebody may have meant by a word that is neither."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ignite_trainer.protocol.validation import keys_at

_NAMED = 3  # more are no help
# What other programs call it.
_USUAL = {
    **dict.fromkeys(("batch", "batch_size", "bs"), "batch_train"),
    "learning_rate": "lr",
    "wd": "weight_decay",
    **dict.fromkeys(("workers", "num_workers"), "workers_train"),
    **dict.fromkeys(("output", "output_dir", "out_dir", "save_dir"), "saved_models_path"),
    **dict.fromkeys(("data_root", "data_dir", "data_path"), "root"),
    **dict.fromkeys(("checkpoint", "ckpt", "weights"), "pretrained"),
    **dict.fromkeys(("amp", "fp16", "bf16"), "precision"),
}


def keys_ending(content: Any, tail: Sequence[str], location: tuple[str | int, ...] = ()) -> list[str]:
    """Return the dotted keys below `content` that end with the words of `tail`, the shortest first.

    Case does not count, and a hyphen is an underscore. Keys right at `location` are not among them.

    Args:
        content: a protocol as plain JSON, or the part of it at `location`.
    """
    wanted = [_plain(word) for word in tail]
    found = [
        ".".join(map(str, path))
        for path in _paths(content, location)
        if len(path) > len(location) + len(tail)
        and [_plain(str(key)) for key in path[-len(tail) :]] == wanted
    ]
    return sorted(found, key=lambda key: key.count("."))[:_NAMED]


def explain_words(words: Sequence[str], *, flags: Iterable[str], content: Mapping[str, Any]) -> str:
    """Say of words of the command line that nothing takes what to write in their place.

    Args:
        words: in order; the value of an unknown flag follows it.
        flags: all that there are.
        content: the protocol as plain JSON; empty if it is not known.
    """
    said: list[str] = []
    after_flag = False
    for word in words:
        if re.match(r"--?[^\W\d]", word):
            said.append(_explain_flag(word.partition("=")[0], flags, content))
            after_flag = "=" not in word
        elif word.endswith((".json", ".jsonc")):
            said.append(f'"{word}" stands without a flag; write -c {word}')
            after_flag = False
        elif not after_flag:
            said.append(f'"{word}" stands without a flag; protocols are named with -c')
    return "; ".join(dict.fromkeys(said))


def _explain_flag(flag: str, flags: Iterable[str], content: Mapping[str, Any]) -> str:
    name = _plain(flag)
    name = _USUAL.get(name, name)
    by_name = {_plain(one): one for one in flags if one.startswith("--")}
    keys = {_plain(str(path[-1])): path for path in _paths(content, ()) if len(path) > 1}
    if name in by_name:
        meant = [by_name[name]]
    elif not (meant := [f"--{key}" for key in keys_ending(content, [name])]):
        near = difflib.get_close_matches(name, [*by_name, *keys], n=1, cutoff=0.6)
        meant = [by_name.get(one) or f"--{'.'.join(map(str, keys[one]))}" for one in near]
    if meant:
        return f"{flag} is no flag; did you mean {' or '.join(meant)}?"
    return f"{flag} is no flag; see --help. Keys of the protocol are written whole, as --Optimizer.args.lr"


def _paths(content: Any, location: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The keys of objects at every depth, those that a protocol may leave out among them."""
    if isinstance(content, list):
        for position, value in enumerate(content):
            yield from _paths(value, (*location, position))
        return
    own = content if isinstance(content, Mapping) else {}
    for key in dict.fromkeys([*own, *keys_at(location)]):
        yield (*location, key)
        yield from _paths(own.get(key), (*location, key))


def _plain(word: str) -> str:
    return word.lstrip("-").lower().replace("-", "_")
