"""Dotted overrides on the command line, `--Section.key.0.key value...`, for protocols in plain JSON."""

from __future__ import annotations

import copy
import difflib
import functools
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ignite_trainer.protocol.reading import parse
from ignite_trainer.protocol.validation import (
    Location,
    accepts_object_or_list,
    accepts_text,
    json_path,
    keys_at,
)
from ignite_trainer.support.errors import ProtocolError, suggest

# Any flag with a dot is an override, even if its section is misspelt.
_FLAG = re.compile(r"--([A-Z$][^=\s]*|\w[^=\s.]*\.[^=\s]*)(?:=(.*))?", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?")  # JSON allows neither .5 nor 5.
_SWEEP = "Sweep"
_LITERALS = {"true": True, "false": False, "null": None}
_MAX_SUGGESTED = 3
# Names of keys in other programs -> our keys.
_SYNONYMS = {
    **dict.fromkeys(("batch", "batch_size", "bs"), "batch_train"),
    "learning_rate": "lr",
    "wd": "weight_decay",
    **dict.fromkeys(("workers", "num_workers"), "workers_train"),
    **dict.fromkeys(("output", "output_dir", "out_dir", "save_dir"), "saved_models_path"),
    **dict.fromkeys(("data_root", "data_dir", "data_path"), "root"),
    **dict.fromkeys(("checkpoint", "ckpt", "weights"), "pretrained"),
    **dict.fromkeys(("amp", "fp16", "bf16"), "precision"),
}


class Override(NamedTuple):
    """A value from the command line.

    Attributes:
        location: keys from the root of the protocol, as the user typed them.
        words: words that follow the flag.
    """

    location: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + ".".join(self.location)


class Place(NamedTuple):
    """A place in a protocol in plain JSON: `parent[key]`, at `location` from the root."""

    parent: Any
    key: Any
    location: Location

    @property
    def is_argument(self) -> bool:
        """True if the place is in the arguments of a class, which may take values of several types."""
        return "args" in self.location[:-1]

    @property
    def example(self) -> Any:
        """A value of the expected type: the current value, or "" for text; None if any type is allowed."""
        if accepts_object_or_list(self.location):
            return None
        value = self.parent.get(self.key) if isinstance(self.parent, dict) else self.parent[self.key]
        return "" if value is None and accepts_text(self.location) else value


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Separate the program's own flags from overrides, which begin with a capital letter or contain a dot.

    An override takes all words up to the next flag; `-1` and `-1e-3` are words, not flags.
    """
    own: list[str] = []
    overrides: list[Override] = []
    taking = False
    for word in argv:
        match = _FLAG.fullmatch(word)
        if match:
            key, value = match.groups()
            overrides.append(Override(split_key(key), () if value is None else (value,)))
            taking = value is None
        elif word.startswith("-") and not re.match(r"-[\d.]", word):
            taking = False
            own.append(word)
        elif taking:
            overrides[-1] = overrides[-1]._replace(words=(*overrides[-1].words, word))
        else:
            own.append(word)
    return own, overrides


def split_key(key: str) -> tuple[str, ...]:
    """Split `Transforms[2].args.p`, or `Transforms.2.args.p`, at the dots."""
    return tuple(re.sub(r"\[(-?\d+)\]", r".\1", key).split("."))


def apply_overrides(
    raw: Mapping[str, Any], overrides: Sequence[Override]
) -> tuple[dict[str, Any], list[str]]:
    """Replace values in a copy of `raw`; each new value gets the type of the value it replaces.

    `true`, `false` and `null` are JSON literals, and a quoted word is a string. After `--Sweep.` comes the
    key to sweep; the words that follow are its values. Sweeps are applied last, so that their values get the
    type of the key's final value.

    Returns:
        The copy, and a problem for each override whose key does not exist or whose value has the wrong type;
        such overrides are not applied.
    """
    result = copy.deepcopy(dict(raw))
    problems = []
    for override in sorted(overrides, key=lambda override: override.location[0] == _SWEEP):
        try:
            if not override.words:
                raise ProtocolError(f"{override.flag} has no value; write {override.flag} VALUE.")
            if override.location[0] == _SWEEP:
                _apply_to_sweep(result, override)
            else:
                place = find_place(result, override.location, written=override.flag)
                place.parent[place.key] = _value(override, place)
        except ProtocolError as error:
            problems += error.problems
    return result, problems


def sweep_conflicts(raw: Mapping[str, Any], overrides: Sequence[Override]) -> list[str]:
    """Report overrides of keys that the protocol's `Sweep` also sets."""
    sweep = raw.get(_SWEEP)
    return [
        f"{override.flag} sets one value, but Sweep.{key} sets several; remove one of the two "
        "(--Sweep null turns off the protocol's sweep)."
        for override in overrides
        for key in (sweep if isinstance(sweep, dict) else ())
        if override.location[: len(split_key(key))] == split_key(key)
    ]


def find_place(root: dict[str, Any], keys: tuple[str, ...], *, written: str) -> Place:
    """Find a place in a protocol; create any missing sections and `args` on the way.

    Args:
        root: protocol in plain JSON.
        keys: keys from the root; positions in a list are numbers.
        written: keys as the user wrote them, for messages.

    Raises:
        ProtocolError: The key does not exist. The error suggests the closest key.
    """
    location: Location = ()
    parent: Any = root
    *above, last = keys
    for word in above:
        key: Any = _key(parent, word, location, written)
        if isinstance(parent, dict) and parent.get(key) is None and _may_be_created(location, key):
            parent[key] = {}
        if isinstance(parent, dict) and key not in parent:
            raise ProtocolError(_unknown(written, location, root, keys))
        parent, location = parent[key], (*location, key)
    key = _key(parent, last, location, written)
    may_be_added = "args" in location or last in keys_at(location)
    if isinstance(parent, dict) and key not in parent and not may_be_added:
        raise ProtocolError(_unknown(written, location, root, keys))
    return Place(parent, key, (*location, key))


def explain_words(words: Sequence[str], *, flags: Iterable[str], content: Mapping[str, Any]) -> str:
    """Explain unrecognised command-line words, and suggest corrections.

    Args:
        words: unknown words in order; the value of an unknown flag follows the flag.
        flags: known flags.
        content: protocol in plain JSON; empty if unknown.
    """
    explanations: list[str] = []
    after_flag = False
    for word in words:
        if re.match(r"--?[^\W\d]", word):
            explanations.append(_explain_flag(word.partition("=")[0], flags, content))
            after_flag = "=" not in word
        elif word.endswith((".json", ".jsonc")):
            explanations.append(f'"{word}" is not preceded by a flag; write -c {word}')
            after_flag = False
        elif not after_flag:
            explanations.append(f'"{word}" is not preceded by a flag; use -c to name a protocol')
    return "; ".join(dict.fromkeys(explanations))


def keys_ending_with(content: Any, tail: Sequence[str], location: Location = ()) -> list[str]:
    """List at most three dotted keys below `content` that end with the keys in `tail`, shortest first.

    Case is ignored, and hyphens match underscores. Keys directly at `location` are omitted.

    Args:
        content: protocol in plain JSON, or its part at `location`.
        tail: last keys, in order.
        location: keys from the root of the protocol to `content`.
    """
    wanted = [_plain(word) for word in tail]
    found = [
        ".".join(map(str, path))
        for path in _paths(content, location)
        if len(path) > len(location) + len(tail)
        and [_plain(str(key)) for key in path[-len(tail) :]] == wanted
    ]
    return sorted(found, key=lambda key: key.count("."))[:_MAX_SUGGESTED]


def _apply_to_sweep(root: dict[str, Any], override: Override) -> None:
    _, *path = override.location
    if not path:
        if len(override.words) > 1:
            raise ProtocolError(
                "--Sweep takes one JSON object; to sweep one key, write for example --Sweep.Setup.seed 1 2."
            )
        root[_SWEEP] = {} if override.words == ("null",) else _scalar(override.words[0], {}, override)
        return
    place = find_place(copy.deepcopy(root), tuple(path), written=override.flag)
    values = [_value(override._replace(words=(word,)), place) for word in override.words]
    present = root.get(_SWEEP) or {}
    if isinstance(present, dict):  # otherwise validation reports the section
        key = json_path(place.location)
        others = {name: kept for name, kept in present.items() if split_key(name) != split_key(key)}
        root[_SWEEP] = {**others, key: values}


def _key(parent: Any, key: str, location: Location, written: str) -> str | int:
    if isinstance(parent, dict):
        return key
    if not isinstance(parent, list):
        raise ProtocolError(f"{written}: {json_path(location)} is {json.dumps(parent)}, which has no keys.")
    if re.fullmatch(r"-?\d+", key) and -len(parent) <= int(key) < len(parent):
        return int(key) % len(parent)
    problem = (
        f"is a list of length {len(parent)}; use an index from 0 to {len(parent) - 1}, not {key}"
        if parent
        else "is an empty list; replace the whole list"
    )
    raise ProtocolError(f"{written}: {json_path(location)} {problem}.")


def _may_be_created(location: Location, key: str) -> bool:
    """Return whether the key may be created: it is a section, or the `args` of a class."""
    return key in keys_at(location) and (key == "args" or bool(keys_at((*location, key))))


def _unknown(written: str, location: Location, root: dict[str, Any], keys: tuple[str, ...]) -> str:
    """Explain that the object at `location` lacks the next key in `keys`, and suggest a key."""
    parent, tail = functools.reduce(operator.getitem, location, root), keys[len(location) :]  # type: ignore[arg-type]
    key, where = tail[0], json_path(location) or "the protocol"
    if key in keys_at(location):  # an omitted list, which has no positions
        whole = json_path((*location, key))
        return f"{written}: {where} omits {key}; write the whole list, --{whole} '[...]'."
    near = suggest(key, [*parent, *keys_at(location)])
    elsewhere = keys_ending_with(parent, tail, location)
    if not elsewhere and "did you" not in near:
        elsewhere = keys_ending_with(root, tail)
    if elsewhere:
        near = "did you mean " + " or ".join(f'"{found}"' for found in elsewhere) + "?"
    return f'{written}: {where} has no "{key}"; {near}'


def _value(override: Override, place: Place) -> Any:
    """Read the words as a value of the same type as the example of the place.

    In the arguments of a class, several words or a JSON list may replace a single value, and text may replace
    a boolean unless it looks like a misspelt boolean.
    """
    words, example = override.words, place.example
    if isinstance(example, list):
        if words == ("null",):
            return None
        if len(words) == 1 and words[0].startswith("["):
            return _as_json(words[0], override, "a JSON list", list)
        return [_scalar(word, example[0] if example else None, override) for word in words]
    if len(words) > 1:
        if example is not None and not place.is_argument:
            raise ProtocolError(f"{override.flag} takes one value, not {len(words)}: {' '.join(words)}")
        return [_scalar(word, example, override) for word in words]
    if place.is_argument and isinstance(example, bool) and not _looks_boolean(words[0]):
        example = ""
    elif place.is_argument and isinstance(example, int | float) and words[0].startswith("["):
        return _as_json(words[0], override, "a number or a JSON list", list)
    return _scalar(words[0], example, override)


def _looks_boolean(word: str) -> bool:
    near = difflib.get_close_matches(word.lower(), ("true", "false"), cutoff=0.5)
    return bool(near) or word.lower() in {"yes", "no", "on", "off", "0", "1", "t", "f", "y", "n"}


def _scalar(word: str, example: Any, override: Override) -> Any:
    if word in _LITERALS:
        return _LITERALS[word]
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "\"'":
        return word[1:-1]
    if isinstance(example, bool):
        raise ProtocolError(f'{override.flag} is "{word}", but must be true or false.')
    if isinstance(example, int | float):
        return _as_json(word, override, "a number", (int, float))
    if isinstance(example, dict):
        return _as_json(word, override, "a JSON object", dict)
    return word if isinstance(example, str) else _json_or_word(word)


def _json_or_word(word: str) -> Any:
    try:
        return float(word) if _NUMBER.fullmatch(word) else parse(word)
    except ValueError:
        return word


def _as_json(word: str, override: Override, what: str, kind: type | tuple[type, ...]) -> Any:
    value = _json_or_word(word)
    if not isinstance(value, kind):
        raise ProtocolError(f'{override.flag} is "{word[:80]}", but must be {what}.')
    return value


def _explain_flag(flag: str, flags: Iterable[str], content: Mapping[str, Any]) -> str:
    name = _plain(flag)
    name = _SYNONYMS.get(name, name)
    by_name = {_plain(known): known for known in flags if known.startswith("--")}
    keys = {_plain(str(path[-1])): path for path in _paths(content, ()) if len(path) > 1}
    if name in by_name:
        meant = [by_name[name]]
    elif not (meant := [f"--{key}" for key in keys_ending_with(content, [name])]):
        near = difflib.get_close_matches(name, [*by_name, *keys], n=1, cutoff=0.6)
        meant = [by_name.get(match) or f"--{'.'.join(map(str, keys[match]))}" for match in near]
    if meant:
        return f"{flag} is not a flag; did you mean {' or '.join(meant)}?"
    return f"{flag} is not a flag; see --help. Write protocol keys in full, for example --Optimizer.args.lr"


def _paths(content: Any, location: Location) -> Iterator[Location]:
    """Yield the keys of objects at every depth, including keys that a protocol may omit."""
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
