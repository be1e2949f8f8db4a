"""Dotted overrides: `--Section.key.0.key value...` over a protocol that is still plain JSON."""

from __future__ import annotations

import copy
import difflib
import functools
import json
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ignite_trainer.protocol.json_input import parse
from ignite_trainer.protocol.key_search import keys_ending
from ignite_trainer.protocol.validation import json_path, keys_at, takes_one_or_several, takes_text
from ignite_trainer.support.errors import ProtocolError, suggest

# Whatever has a dot is meant as an override, even where its section is misspelt.
_FLAG = re.compile(r"--([A-Z$][^=\s]*|\w[^=\s.]*\.[^=\s]*)(?:=(.*))?", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]?\d+)?")  # ".5" and "5." are numbers to people
_SWEEP = "Sweep"
_LITERALS = {"true": True, "false": False, "null": None}


class Override(NamedTuple):
    """A value for one place of the protocol.

    Attributes:
        location: keys from the root; positions of a list are integers once it is applied.
        words: the words of the command line after the flag.
    """

    location: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def flag(self) -> str:
        """The flag as it is written."""
        return "--" + ".".join(self.location)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Separate the program's own flags from the dotted overrides, which begin with a capital or have a dot.

    An override takes every word up to the next flag; `-1` and `-1e-3` are words, not flags.
    """
    own: list[str] = []
    overrides: list[Override] = []
    taking = False
    for word in argv:
        found = _FLAG.fullmatch(word)
        if found:
            key, value = found.groups()
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


class Place(NamedTuple):
    """A place of a protocol that is still plain JSON: `parent[step]`, at `location` from the root."""

    parent: Any
    step: Any
    location: tuple[str | int, ...]

    @property
    def present(self) -> Any:
        """What stands there; "" where it is text that is null or left out so far, else None."""
        found = self.parent.get(self.step) if isinstance(self.parent, dict) else self.parent[self.step]
        return "" if found is None and takes_text(self.location) else found

    @property
    def sample(self) -> Any:
        """A value of the type that is expected; None where it is for the class to say what it takes.

        Which folds there are is the data set's to say, and why there is no other split.
        """
        if (self.is_free and self.step == "fold") or takes_one_or_several(self.location):
            return None
        return self.present

    @property
    def is_free(self) -> bool:
        """Whether the types are the business of a class, whose arguments these are."""
        return "args" in self.location[:-1]


def apply_overrides(
    raw: Mapping[str, Any], overrides: Sequence[Override]
) -> tuple[dict[str, Any], list[str]]:
    """Replace values in a copy of `raw`, each typed like the value it replaces.

    `true`, `false` and `null` are always JSON literals, a quoted word is always a string. What follows
    `Sweep.` is the key to be swept, its words are the values; they are typed last, like the value it has.

    Returns:
        The copy, and a problem for every override that names no place, or whose words are not of the place's
        type; such overrides change nothing.
    """
    result = copy.deepcopy(dict(raw))
    problems = []
    for override in sorted(overrides, key=lambda override: override.location[0] == _SWEEP):
        try:
            if override.location[0] == _SWEEP:
                _apply_to_sweep(result, override)
            else:
                _apply(result, override)
        except ProtocolError as error:
            problems += error.problems
    return result, problems


def swept_twice(raw: Mapping[str, Any], overrides: Sequence[Override]) -> list[str]:
    """Name the overrides whose value a `Sweep` over the same key would replace."""
    sweep = raw.get(_SWEEP)
    keys = list(sweep) if isinstance(sweep, dict) else []
    return [
        f"{override.flag} gives one value to what Sweep.{key} gives several; remove one of the two "
        "(--Sweep null switches a protocol's sweep off)."
        for override in overrides
        for key in keys
        if override.location[: len(split_key(key))] == split_key(key)
    ]


def split_key(key: str) -> tuple[str, ...]:
    """Split `Transforms[2].args.p`, or `Transforms.2.args.p`, at the dots."""
    return tuple(re.sub(r"\[(-?\d+)\]", r".\1", key).split("."))


def find_place(root: dict[str, Any], path: tuple[str, ...], *, said: str) -> Place:
    """Find the place of a key, and make the objects on the way to it that a protocol may leave out.

    Args:
        root: a protocol as plain JSON.
        path: the parts of the key; positions of a list are numbers.
        said: how the user wrote it, for messages.

    Raises:
        ProtocolError: there is no such place; with the nearest key.
    """
    location: tuple[str | int, ...] = ()
    parent: Any = root
    step: Any
    *above, last = path
    for key in above:
        step = _position(parent, key, location, said)
        if isinstance(parent, dict) and parent.get(step) is None and _is_left_out(location, step):
            parent[step] = {}
        if isinstance(parent, dict) and step not in parent:
            raise ProtocolError(_unknown(said, location, root, path))
        parent, location = parent[step], (*location, step)
    step = _position(parent, last, location, said)
    if isinstance(parent, dict) and step not in parent and not _may_be_added(location, step):
        raise ProtocolError(_unknown(said, location, root, path))
    return Place(parent, step, (*location, step))


def _apply(root: dict[str, Any], override: Override) -> None:
    _require_words(override)
    place = find_place(root, override.location, said=override.flag)
    place.parent[place.step] = _typed(override, place.sample, free=place.is_free)


def _apply_to_sweep(root: dict[str, Any], override: Override) -> None:
    _require_words(override)
    _, *path = override.location
    if not path and len(override.words) > 1:
        raise ProtocolError(
            "--Sweep takes all of the section, as JSON; for one key write --Sweep.Dataset.args.fold 1 2, say."
        )
    if not path:
        root[_SWEEP] = {} if override.words == ("null",) else _typed(override, {}, free=False)
        return
    place = find_place(copy.deepcopy(root), tuple(path), said=override.flag)
    values = [
        _typed(override._replace(words=(word,)), place.sample, free=place.is_free) for word in override.words
    ]
    present = root.get(_SWEEP) or {}
    if isinstance(present, dict):  # else the check of the whole says what is wrong
        key = json_path(place.location)
        others = {name: kept for name, kept in present.items() if split_key(name) != split_key(key)}
        root[_SWEEP] = {**others, key: values}


def _require_words(override: Override) -> None:
    if not override.words:
        raise ProtocolError(f"{override.flag} has no value; write {override.flag} VALUE.")
    for word in (*override.location, *override.words):
        try:
            word.encode()
        except UnicodeEncodeError:  # what Python makes of bytes of the command line that are none
            raise ProtocolError(f"{override.flag} has {word[:40]!a}; write UTF-8.") from None


def _position(parent: Any, key: str, location: tuple[str | int, ...], said: str) -> str | int:
    if isinstance(parent, dict):
        return key
    if isinstance(parent, list):
        if re.fullmatch(r"-?\d+", key) and -len(parent) <= int(key) < len(parent):
            return int(key) % len(parent)
        raise ProtocolError(
            f'{said}: {json_path(location)} is a list of {len(parent)}; "{key}" is no position '
            f"in it. {f'Write 0 to {len(parent) - 1}.' if parent else 'Give it whole.'}"
        )
    raise ProtocolError(f"{said}: {json_path(location)} is {json.dumps(parent)}; it has no keys.")


def _is_left_out(location: tuple[str | int, ...], key: str | int) -> bool:
    """Whether an object can be made at this key: a section of the protocol, or the `args` of a class."""
    return key in keys_at(location) and (key == "args" or bool(keys_at((*location, key))))


def _may_be_added(location: tuple[str | int, ...], key: str | int) -> bool:
    """Keys of `args` are the business of the class they go to; others must be keys of a protocol."""
    return "args" in location or key in keys_at(location)


def _unknown(said: str, location: tuple[str | int, ...], root: dict[str, Any], path: tuple[str, ...]) -> str:
    """Say that the object at `location` has not the next key of `path`, and which one may be meant."""
    parent, tail = functools.reduce(operator.getitem, location, root), path[len(location) :]  # type: ignore[arg-type]
    key, where = tail[0], json_path(location) or "the protocol"
    if key in keys_at(location):  # a list: it has no positions to speak of
        whole = json_path((*location, key))
        return f"{said}: {where} leaves {key} out; give all of it, --{whole} '[...]'."
    near = suggest(key, [*parent, *keys_at(location)])
    elsewhere = keys_ending(parent, tail, location) or ([] if "did you" in near else keys_ending(root, tail))
    if elsewhere:
        near = "did you mean " + " or ".join(f'"{found}"' for found in elsewhere) + "?"
    return f'{said}: {where} has no "{key}"; {near}'


def _typed(override: Override, present: Any, *, free: bool) -> Any:
    """Read the words as a value of the type of `present`, the value they replace.

    Where the types are `free`, among arguments of a class, several words make a list of what was one value,
    and a text may replace a truth value, unless it looks like a misspelt one.
    """
    words = override.words
    if isinstance(present, list):
        if words == ("null",):
            return None
        if len(words) == 1 and words[0].startswith("["):
            return _as_json(words[0], override, "a JSON list", list)
        sample = present[0] if present else None
        return [_scalar(word, sample, override) for word in words]
    if len(words) > 1:
        if present is not None and not free:
            raise ProtocolError(f"{override.flag} takes one value, not {len(words)}: {' '.join(words)}")
        return [_scalar(word, present, override) for word in words]
    if free and isinstance(present, bool) and not _looks_boolean(words[0]):
        present = ""
    return _scalar(words[0], present, override)


def _looks_boolean(word: str) -> bool:
    """Whether somebody may have meant true or false: by a near miss, or by a habit from elsewhere."""
    near = difflib.get_close_matches(word.lower(), ("true", "false"), cutoff=0.5)
    return bool(near) or word.lower() in {"yes", "no", "on", "off", "0", "1", "t", "f", "y", "n"}


def _scalar(word: str, present: Any, override: Override) -> Any:
    if word in _LITERALS:
        return _LITERALS[word]
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "\"'":
        return word[1:-1]
    if isinstance(present, bool):
        raise ProtocolError(f'{override.flag} is "{word}"; write true or false.')
    if isinstance(present, int | float):
        return _as_json(word, override, "a number", (int, float))
    if isinstance(present, dict):
        return _as_json(word, override, "a JSON object", dict)
    return word if isinstance(present, str) else _json_or_word(word)


def _json_or_word(word: str) -> Any:
    try:
        return float(word) if _NUMBER.fullmatch(word) else parse(word)
    except ValueError:
        return word


def _as_json(word: str, override: Override, what: str, kind: type | tuple[type, ...]) -> Any:
    value = _json_or_word(word)
    if not isinstance(value, kind):
        shown = word if len(word) <= 80 else f"{word[:80]}..."
        raise ProtocolError(f'{override.flag} is "{shown}"; it replaces {what}, so write {what}.')
    return value
