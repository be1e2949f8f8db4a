"""The model of a blueprint, built and brought into the form that is the fastest, or the smallest."""

from __future__ import annotations

import torch
from torch import nn
from torch.compiler import config as compiler_config

from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.batch_norm import synchronise_batch_norms

_VARIANTS_COMPILED = 64


def build_model(blueprint: Blueprint, device: torch.device) -> nn.Module:
    """Build the model on a device, as `Setup` wants it computed."""
    setup = blueprint.protocol.setup
    model = build(blueprint.model, blueprint.protocol.model.args, where="Model").to(device)
    if setup.sync_batch_norm and world_size() > 1:
        synchronise_batch_norms(model)
    if setup.recompute:
        _have_activations_recomputed(model)
    if setup.channels_last:
        put_channels_last(model)
    if setup.compile:
        compile_model(model)
    return model


def put_channels_last(model: nn.Module) -> None:
    """Lay out what has four dimensions, so the weights of convolutions over images, channels innermost.

    (Asked of a whole module, torch refuses one that also holds tensors of five dimensions.)
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def compile_model(model: nn.Module) -> None:
    """Have a model compiled where it is called; the names of its parameters stay.

    One that knows which of its parts are worth it has a method `compile_towers`.
    """
    # Blocks of one class share this bound, and a network has more kinds of them than the default of 8.
    compiler_config.recompile_limit = max(compiler_config.recompile_limit, _VARIANTS_COMPILED)
    compile_towers = getattr(model, "compile_towers", None)
    if callable(compile_towers):
        compile_towers()
    else:
        model.compile(dynamic=False)


def _have_activations_recomputed(model: nn.Module) -> None:
    """Ask the model, which alone knows where that is worth it."""
    recompute_activations = getattr(model, "recompute_activations", None)
    if not callable(recompute_activations):
        raise ProtocolError(
            f"Setup.recompute is true, for which {type(model).__name__} has no method recompute_activations; "
            "set it to false, or add one."
        )
    recompute_activations()
