"""Prepares a run's model as configured in `Setup` (device, memory format, compilation); tries out models."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.compiler import config as compiler_config

from ignite_trainer.protocol.blueprint import Blueprint
from ignite_trainer.protocol.instantiate import build
from ignite_trainer.protocol.sections import Setup
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.training.batch_norm import synchronise_batch_norms
from ignite_trainer.training.optimization import build_optimization
from ignite_trainer.training.parameters import ParameterPlan, apply_rules

_RECOMPILE_LIMIT = 64


def prepare_model(model: nn.Module, setup: Setup, device: torch.device) -> nn.Module:
    """Move a model to a device, ready to train as configured in `Setup`.

    Raises:
        ProtocolError: `Setup` asks for something that the model cannot do.
    """
    model = model.to(device)
    if setup.sync_batch_norm and world_size() > 1:
        synchronise_batch_norms(model)
    if setup.recompute:
        recompute_activations = getattr(model, "recompute_activations", None)
        if not callable(recompute_activations):
            raise ProtocolError(
                f"Setup.recompute is true, but {type(model).__name__} has no method recompute_activations; "
                "set Setup.recompute to false, or add that method to the model."
            )
        recompute_activations()
    if setup.channels_last:
        convert_to_channels_last(model)
    if setup.compile:
        compile_model(model)
    return model


def try_out_model(blueprint: Blueprint) -> nn.Module:
    """Build the model on the CPU, apply the parameter rules, and build the optimizer as a test.

    Raises:
        ProtocolError: Something cannot be built. The error lists every problem with its JSON path.
    """
    model = build(blueprint.model, blueprint.protocol.model.args, where="Model")
    build_optimization(blueprint, plan_training(blueprint, model), rate=1.0, batches=None)
    return model


def plan_training(blueprint: Blueprint, model: nn.Module) -> ParameterPlan:
    """Apply the parameter rules of a protocol, which must train something unless there are no epochs.

    Raises:
        ProtocolError: The rules do not fit the model.
    """
    protocol = blueprint.protocol
    return apply_rules(model, protocol.parameters, must_train=bool(protocol.setup.epochs))


def with_random_weights(blueprint: Blueprint) -> Blueprint:
    """Return a blueprint with random weights in place of weights that would be downloaded.

    The model's argument `pretrained` names such weights; a path or false stays unchanged.
    """
    model = blueprint.protocol.model
    argument = inspect.signature(blueprint.model).parameters.get("pretrained")
    named = model.args.get("pretrained", argument and argument.default)
    is_path = isinstance(named, str) and len(Path(named).parts) > 1
    if named is False or is_path or argument is None:
        return blueprint
    model = model.model_copy(update={"args": {**model.args, "pretrained": False}})
    return replace(blueprint, protocol=blueprint.protocol.model_copy(update={"model": model}))


def convert_to_channels_last(model: nn.Module) -> None:
    """Convert four-dimensional tensors (weights of 2D convolutions) to the channels-last memory format.

    `nn.Module.to` cannot be used, because it fails on five-dimensional tensors.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def compile_model(model: nn.Module) -> None:
    """Compile a model in place, so that its parameters keep their names.

    A model's own method `compile_towers` is called instead, if there is one.
    """
    # All blocks of a class share this limit; one network can have more variants than the default limit of 8.
    compiler_config.recompile_limit = max(compiler_config.recompile_limit, _RECOMPILE_LIMIT)
    compile_towers = getattr(model, "compile_towers", None)
    if callable(compile_towers):
        compile_towers()
    else:
        model.compile(dynamic=False)
