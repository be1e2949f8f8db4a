"""`export`: writes the audio tower or a zero-shot classifier to an ONNX file or for torch.export."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import exporting
from ..audioclip import AudioCLIP
from ..embedding import SAMPLE_RATE
from ..own_name import require
from ..storage.atomic import whole_file


def export(
    weights: str,
    file: Path,
    *,
    class_names: Sequence[str] | None,
    template: str,
    model_args: Mapping[str, Any],
) -> None:
    """Load a model, export it, and print the size of the file.

    Args:
        weights: name of a release, weights file, folder or hub repository.
        file: .onnx or .pt2 file to write.
        class_names: classes of a zero-shot classifier; None to export the audio tower.
        template: prompt template, with `{}` where the class goes.
        model_args: constructor arguments that differ from those of the weights.

    Raises:
        ImportError: onnxscript is missing for an .onnx file.
        ValueError: The weights or arguments cannot be used.
    """
    if file.suffix == ".onnx":
        require("onnxscript", extra="export")
    try:
        model = AudioCLIP.from_pretrained(weights, **model_args)
    except TypeError as error:
        if not model_args:
            raise
        raise ValueError(f"--model-args: {error}") from error
    write(model, file, class_names=class_names, template=template)
    print(f"{file}: {file.stat().st_size / 1e6:.0f} MB")


def write(
    model: AudioCLIP, file: Path, *, class_names: Sequence[str] | None = None, template: str = "{}"
) -> None:
    """Export the audio tower, or a zero-shot classifier, to an .onnx or .pt2 file, replaced atomically."""
    module: exporting.Exportable
    if class_names is None:
        module = exporting.ExportableAudioTower(model.audio, normalize=True)
    else:
        module = exporting.ExportableZeroShot(model, class_names, template=template)
    if file.suffix == ".pt2":
        program = io.BytesIO()
        torch.export.save(exporting.export_program(module), program)
        with whole_file(file) as content:
            content.write(program.getbuffer())
        return
    metadata = {"sample_rate": str(SAMPLE_RATE), "units": "16 bit: -32768..32767"}
    if class_names is not None:
        metadata |= {"classes": json.dumps(list(class_names)), "template": template}
    with torch.no_grad():
        exporting.save_onnx(module, file, metadata=metadata)
