"""Speed baseline: torchvision's bare ResNeXt-50 on images of the size of the audio tower's spectrograms."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models import resnext50_32x4d

from ignite_trainer.api.task import StepOutput, Task
from ignite_trainer.api.yardstick import Yardstick
from model.esresnet import ESResNeXt
from model.esresnet.spectrogram import frame_count


class BareBackbone(Yardstick):
    """Training steps of the bare backbone, with its cross-entropy and optimizer, but no data, audio or text.

    Precision, compilation, batch size and optimizer come from the protocol. The images have the size of its
    training clips' spectrograms, e.g. `[B, 3, 341, 392]` for 5 s.

    Args:
        samples: length of a clip, in samples; None for the `out_len` of the last training transform that has
            this argument, or otherwise of the held-out split's last transform that has it.
    """

    def __init__(self, *, samples: int | None = None) -> None:
        if samples is not None and samples < 1:
            raise ValueError(f"samples is {samples}; it must be positive.")
        self._samples = samples

    def protocol(self, protocol: Mapping[str, Any]) -> dict[str, Any]:
        """Replace model, task, data and augmentation."""
        height, width = _image_size(protocol["Model"]["args"], self._samples or _clip_length(protocol))
        # Each channel of a stereo clip passes through the backbone.
        channels = 2 if protocol["Dataset"]["args"].get("mono") is False else 1
        size = {"height": height, "width": width, "images_per_sample": channels}
        return {
            **protocol,
            "Setup": {
                **protocol["Setup"],
                **{"recompute": False, "sampling": "each", "samples_per_epoch": None},
            },
            "Model": {"class": "utils.benchmarks.Backbone"},
            "Task": {"class": "utils.benchmarks.BackboneOnNoise", "args": size},
            "Parameters": [{"match": ".*"}],
            "Dataset": {"class": "utils.benchmarks.ClassNumbers"},
            "Transforms": [],
            "Metrics": {},
            "Table": {},
            "Yardsticks": {},
        }


class Backbone(nn.Module):
    """torchvision's `resnext50_32x4d` with random weights, channels-last."""

    def __init__(self) -> None:
        super().__init__()
        self.network = resnext50_32x4d().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits `[B, 1000]` for images `[B, 3, H, W]`."""
        logits: Tensor = self.network(images)
        return logits


class BackboneOnNoise(Task):
    """Cross-entropy of the backbone on the same images in every step; the images stay on the device.

    Args:
        height: height of the images, in pixels.
        width: width of the images, in pixels.
        images_per_sample: number of images per sample.
    """

    def __init__(self, *, height: int, width: int, images_per_sample: int = 1) -> None:
        self._size = (height, width)
        self._images_per_sample = images_per_sample
        self._images = torch.empty(0)

    def training_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return loss, logits and targets."""
        output = self.evaluation_step(model, batch)
        return output._replace(loss=F.cross_entropy(output.y_pred.float(), output.y))

    def evaluation_step(self, model: nn.Module, batch: Any) -> StepOutput:
        """Return logits and targets."""
        targets = batch.target.repeat_interleave(self._images_per_sample)
        if len(self._images) != len(targets):
            with torch.inference_mode(False):  # training reuses images created in an evaluation
                images = torch.randn(len(targets), 3, *self._size)
                self._images = images.to(targets.device, memory_format=torch.channels_last)
        return StepOutput(model(self._images), targets)


class NumberSample(NamedTuple):
    """A class number."""

    target: int


class ClassNumbers(Dataset[NumberSample]):
    """A data set of class numbers that takes no time to load.

    Args:
        train: ignored; both splits are the same.
        samples: length of the data set.
    """

    def __init__(self, *, train: bool = True, samples: int = 2**14) -> None:
        self.train = train
        self._samples = samples

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> NumberSample:
        return NumberSample(index % 1000)


def _clip_length(protocol: Mapping[str, Any]) -> int:
    """Return the number of samples of a training clip."""
    for split in ("train", "test"):
        for spec in reversed(protocol["Transforms"]):
            if spec[split] and "out_len" in spec["args"]:
                return int(spec["args"]["out_len"])
    raise ValueError("samples is needed: no transform has an out_len, which would be the length of a clip.")


def _image_size(model_args: Mapping[str, Any], samples: int) -> tuple[int, int]:
    """Return the height and width of the spectrogram of a clip with `samples` samples."""
    defaults = {name: item.default for name, item in inspect.signature(ESResNeXt).parameters.items()}
    args = {**defaults, **model_args}
    win_length = args["win_length"] or args["n_fft"]
    bins = args["n_fft"] // 2 + 1 if args["onesided"] else 2 * args["n_fft"]
    frames = frame_count(samples, win_length=win_length, hop_length=args["hop_length"] or win_length // 4)
    height, width = args["spec_height"], args["spec_width"]
    return height if height > 0 else bins // 3, width if width > 0 else frames
