"""Batch norms folded into the convolutions before them: the same numbers, without their passes over memory.

Only for eval mode without gradient, where a batch norm is a fixed scale and offset of each channel.
"""

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Network = TypeVar("Network", bound=nn.Module)

_PAIRS = (
    ("conv1", "bn1"),  # of the stem and of a block
    ("conv2", "bn2"),
    ("conv3", "bn3"),
    ("0", "1"),  # of a block's `downsample`
    ("conv_point", "bn"),  # of a gate
)


def folded(network: Network) -> Network:
    """Copy `network`, which is in eval mode, with its batch norms folded into their convolutions."""
    network = copy.deepcopy(network).requires_grad_(False)
    for module in network.modules():
        for convolution_name, norm_name in _PAIRS:
            convolution, norm = getattr(module, convolution_name, None), getattr(module, norm_name, None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, convolution_name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, norm_name, nn.Identity())
    return network
