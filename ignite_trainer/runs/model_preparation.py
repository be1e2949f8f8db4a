"""Builds the model of a run, and lays it out and compiles it as `Setup` asks."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.compiler import config as compiler_config

from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.batch_norm import synchronise_batch_norms
from ignite_trainer.training.optimization import build_optimization
from ignite_trainer.training.parameters import apply_rules

_VARIANTS_COMPILED = 64


def build_model(blueprint: Blueprint, device: torch.device) -> nn.Module:
    """Build the model on a device, ready to train."""
    setup = blueprint.protocol.setup
    model = build(blueprint.model, blueprint.protocol.model.args, where="Model").to(device)
    if setup.sync_batch_norm and world_size() > 1:
        synchronise_batch_norms(model)
    if setup.recompute:
        recompute_activations = getattr(model, "recompute_activations", None)
        if not callable(recompute_activations):
            raise ProtocolError(
                f"Setup.recompute is true, for which {type(model).__name__} has no method "
                "recompute_activations; set it to false, or add one."
            )
        recompute_activations()
    if setup.channels_last:
        put_channels_last(model)
    if setup.compile:
        compile_model(model)
    return model


def try_out_model(blueprint: Blueprint) -> nn.Module:
    """Build the model on the CPU, apply its parameter rules, and try to build the optimizer.

    Raises:
        ProtocolError: with the JSON paths of everything that cannot be built.
    """
    model = build(blueprint.model, blueprint.protocol.model.args, where="Model")
    build_optimization(blueprint, apply_rules(model, blueprint.protocol.parameters), rate=1.0, batches=None)
    return model


def without_weights(blueprint: Blueprint) -> Blueprint:
    """Return a blueprint with random weights instead of weights to fetch.

    Models name their weights by the argument `pretrained`; a path or false stays.
    """
    model = blueprint.protocol.model
    argument = inspect.signature(blueprint.model).parameters.get("pretrained")
    named = model.args.get("pretrained", argument and argument.default)
    is_path = isinstance(named, str) and len(Path(named).parts) > 1
    if named is False or is_path or argument is None:
        return blueprint
    model = model.model_copy(update={"args": {**model.args, "pretrained": False}})
    return replace(blueprint, protocol=blueprint.protocol.model_copy(update={"model": model}))


def put_channels_last(model: nn.Module) -> None:
    """Lay out the weights of 2d convolutions, which have four dimensions, with channels innermost.

    (torch refuses to do so for a module that also holds tensors of five dimensions.)
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def compile_model(model: nn.Module) -> None:
    """Compile a model in place, so that its parameters keep their names.

    A model can have a method `compile_towers` that compiles only the parts worth it.
    """
    # Blocks of one class share this limit, and a network has more kinds of them than the default of 8.
    compiler_config.recompile_limit = max(compiler_config.recompile_limit, _VARIANTS_COMPILED)
    compile_towers = getattr(model, "compile_towers", None)
    if callable(compile_towers):
        compile_towers()
    else:
        model.compile(dynamic=False)
