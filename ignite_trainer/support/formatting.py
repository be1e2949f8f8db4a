"""Numbers, durations, Markdown tables, and safe text for people to read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import PurePath
from urllib.parse import quote

CHOSEN_ON = {
    "test": "The best epoch was chosen on the held-out split, so its value is optimistic; the last epoch is "
    "unbiased.",
    "validation": "The best epoch was chosen on the validation split, so its value on the held-out split is "
    "unbiased, as is that of the last epoch.",
}
"""Explanation of the best epoch's value, by the split that chose the epoch."""
_CHOOSING = {"test": "held-out", "validation": "validation"}
EPOCH_0 = (
    "Epoch 0 is before the first step. If it is the best, no trained epoch was as good: its weights are the "
    "initial ones, and nothing was learned."
)

# Control characters except tab and newline, characters that change the direction of text, and surrogates.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINE = re.compile(rf"[\t\n\u2028\u2029]|{_UNSEEN.pattern}")
# Characters with a meaning in Markdown, in its tables, or in formulas that some viewers render.
_MARKS = re.compile(r"([\\`*_\[\]|~$])")
# Starts of a line that turn it into a heading, a list, a quotation or a rule.
_LEADING = re.compile(r"^([#+=-]|\d+(?=[.)](?:\s|$)))")
# Parts of addresses, which viewers turn into links.
_ADDRESS = re.compile(r"(?i)(:)(?=//)|\b(www)(?=\.)|(?<=\w)(@)(?=\w)")


def readable(value: float) -> str:
    """Format a number with four decimals, a count without, and an extreme number in scientific notation."""
    if value >= 2 and value.is_integer() and value < 1e5:
        return f"{value:.0f}"
    decimals = not math.isfinite(value) or value == 0 or 1e-3 <= abs(value) < 1e5
    return f"{value:.4f}" if decimals else f"{value:.3e}"


def title_of_best(chosen_on: Iterable[str]) -> str:
    """Return the title of best epochs' values, such as "chosen on held-out split"."""
    return f"chosen on {' or '.join(dict.fromkeys(_CHOOSING[split] for split in chosen_on))} split"


def remarks_on_best(epochs: Iterable[int]) -> list[str]:
    """Return an explanation if a best epoch is 0."""
    return [EPOCH_0] if 0 in epochs else []


def value_cells(table: Mapping[str, Mapping[str, float]]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the column names of a table of values, and each row's cells; missing values are ""."""
    columns = list(dict.fromkeys(column for values in table.values() for column in values))
    rows = {
        row: [readable(values[name]) if name in values else "" for name in columns]
        for row, values in table.items()
    }
    return columns, rows


def duration(seconds: float) -> str:
    """Format a duration, such as "1 h 12 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def percent(share: float, *, decimals: int = 1) -> str:
    """Format a fraction as a percentage without the sign, rounding half up: "81.3" for 0.8125.

    NaN and infinity are formatted as "nan" and "inf".
    """
    if not math.isfinite(share):
        return str(float(share))
    exact = 100 * Decimal(f"{share:.12f}")  # 0.2875 is slightly less as a float
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def inert(text: str) -> str:
    """Escape text so that Markdown shows it unchanged, on one line in a paragraph or a table cell.

    White space is collapsed to single spaces, and each unsafe character becomes a replacement character.
    """
    text = visible(" ".join(text.split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKS.sub(r"\\\1", text)
    text = _ADDRESS.sub(lambda found: f"{found[0][:-1]}&#{ord(found[0][-1])};", text)
    leading = _LEADING.match(text)
    if leading and leading[0].isdigit():
        return f"{leading[0]}\\{text[leading.end() :]}"
    return f"\\{text}" if leading else text


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table of escaped cells, with all columns but the first right-aligned."""
    rules = [":--", *["--:"] * (len(header) - 1)]
    lines = [[inert(cell) for cell in header], rules, *([inert(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_link(path: PurePath) -> str:
    """Format a Markdown link to a file by its relative path."""
    return f"[{inert(path.as_posix())}]({quote(path.as_posix(), safe='/')})"


def escaped(text: str) -> str:
    """Escape characters that are unsafe in a line, as Python does: `\\x1b`.

    Joiners, which letters and emoji need, are kept.
    """
    return _UNSAFE_IN_LINE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible(text: str) -> str:
    """Replace characters that are unsafe to print; keep tabs and newlines."""
    return _UNSEEN.sub("\ufffd", text)
