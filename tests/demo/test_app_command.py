"""The program that serves the page, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from demo import app


@pytest.mark.usefixtures("_loaded_before")
def test_without_a_folder_synthetic_examples_are_served(
    monkeypatch: pytest.MonkeyPatch, weights_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []

    async def stop(application: Any, port: int) -> None:
        served.append(application)
        assert port == 0
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "_serve", stop)
    assert app.main(["--weights", str(weights_folder), "--port", "0"]) == 0
    assert len(served) == 1
    assert app.main(["nowhere", "--weights", str(weights_folder)]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
