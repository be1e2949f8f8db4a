"""Export of the audio tower or a classifier: `python -m utils.export WEIGHTS my.onnx --classes dog rain`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ignite_trainer.support.terminal import replace_unknown_letters
from model import exporting
from model.audioclip import AudioCLIP
from model.embedding import SAMPLE_RATE
from model.weights.releases import WeightsError

_FORMATS = (".onnx", ".pt2")


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0 if the file was written, and 1 otherwise."""
    replace_unknown_letters()
    parser = argparse.ArgumentParser(
        prog="python -m utils.export",
        description="Export the audio tower of an AudioCLIP, or a zero-shot classifier with fixed classes, "
        "to a single file that does not need this code. Input: audio, float32 [batch, channels, samples] in "
        "16-bit units at 44.1 kHz. Output: embeddings of norm 1, or class probabilities.",
    )
    parser.add_argument("weights", help="name of a release, weights file, folder or hub repository")
    parser.add_argument("file", type=Path, help="file to write: .onnx, or .pt2 for torch.export.load")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="classes of a zero-shot classifier")
    parser.add_argument("--template", default="{}", help="prompt template, with {} where the class goes")
    parser.add_argument(
        "--model-args",
        type=json.loads,
        default={},
        metavar="JSON",
        help="constructor arguments that differ from the published model's",
    )
    given = parser.parse_args(arguments)
    if given.file.suffix not in _FORMATS:
        parser.error(f"{given.file} must end in {' or '.join(_FORMATS)}.")
    try:
        model = AudioCLIP.from_pretrained(given.weights, **given.model_args)
        write(model, given.file, class_names=given.classes, template=given.template)
    except (WeightsError, ValueError, TypeError, OSError) as error:
        print(f"Not exported: {error}", file=sys.stderr)
        return 1
    print(f"{given.file}: {given.file.stat().st_size / 1e6:.0f} MB")
    return 0


def write(
    model: AudioCLIP, file: Path, *, class_names: Sequence[str] | None = None, template: str = "{}"
) -> None:
    """Export the audio tower, or a zero-shot classifier of `class_names`, to an .onnx or .pt2 file."""
    module: exporting.Exportable
    if class_names is None:
        module = exporting.ExportableAudioTower(model.audio, normalize=True)
    else:
        module = exporting.ExportableZeroShot(model, class_names, template=template)
    if file.suffix == ".pt2":
        torch.export.save(exporting.export_program(module), file)
        return
    metadata = {"sample_rate": str(SAMPLE_RATE), "units": "16 bit: -32768..32767"}
    if class_names is not None:
        metadata |= {"classes": json.dumps(list(class_names)), "template": template}
    with torch.no_grad():
        exporting.save_onnx(module, file, metadata=metadata)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
