"""Commands print to a terminal of any encoding."""

from __future__ import annotations

import io

import pytest

from model.terminal import replace_unknown_letters


@pytest.mark.parametrize(("encoding", "said"), [("ascii", b"V?gel ?"), ("cp1252", b"V\xf6gel ?")])
def test_letters_that_an_encoding_lacks_are_replaced(
    encoding: str, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding=encoding))
    replace_unknown_letters()
    print("Vögel 音", end="", flush=True)
    assert printed.getvalue() == said
