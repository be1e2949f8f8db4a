"""`--explain`: shows values with their origins, trained parameters, shapes, and estimates of time and memory.

It writes no results. If a part, such as the data set, cannot be built, it names the problem and explains the
rest.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ignite.utils import manual_seed
from tqdm import tqdm

from ignite_trainer.commands.check_room import ModelSize, checkpoint_space, memory_findings, room_findings
from ignite_trainer.commands.estimates import Estimates, estimate
from ignite_trainer.protocol.blueprint import Blueprint, draw
from ignite_trainer.protocol.loading import trace
from ignite_trainer.protocol.overrides import Override
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.runs.assembly import Parts, assemble
from ignite_trainer.runs.model_preparation import plan_training, try_out_model, with_random_weights
from ignite_trainer.support.distributed import world_size
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.formatting import duration
from ignite_trainer.support.progress import ProgressLines, is_terminal
from ignite_trainer.support.terminal import show, show_rows
from ignite_trainer.training.optimization import build_optimization
from ignite_trainer.training.parameters import ParameterPlan

_SEED = 0
_KEY_WIDTH = 40


def explain_all(
    loaders: Mapping[Path, Callable[[], Protocol]],
    overrides: Sequence[Override],
    *,
    defaults: Path,
    trusted: Iterable[str] = (),
) -> int:
    """Load and explain the protocols of files.

    Returns:
        0, or 2 if a protocol names a class that does not exist or an argument that the class does not accept.
    """
    status = 0
    for path, protocol in [(path, load()) for path, load in loaders.items()]:
        values = trace(protocol, path, overrides, defaults=defaults)
        # Each value has a line that is not wrapped, so that it can be searched and copied.
        lines = [
            f"{value.path:<{_KEY_WIDTH}} {json.dumps(value.value, ensure_ascii=False)}  ({value.origin})"
            for value in values
        ]
        show("\n".join([f"{path}: every value and where it comes from", *lines]))
        try:
            blueprint = draw(protocol.model_copy(update={"sweep": {}}), trusted=trusted)
        except ProtocolError as error:
            show(f"error: {error}")
            status = 2
            continue
        _explain_run(path, blueprint, runs=math.prod(map(len, protocol.sweep.values())))
        gc.collect()
    return status


def _explain_run(path: Path, blueprint: Blueprint, *, runs: int) -> None:
    protocol = blueprint.protocol
    plain = protocol.model_copy(update={"evaluations": {}})
    blueprint = replace(blueprint, protocol=plain, evaluations={}).with_setup(compile=False)
    manual_seed(_SEED)
    try:
        parts = assemble(blueprint, seed=_SEED)
    except ProtocolError as error:
        with contextlib.suppress(ProtocolError):  # `error` already includes the model's problems
            model = try_out_model(with_random_weights(blueprint))
            _show_rules(path, blueprint, plan_training(blueprint, model))
        lines = "".join(f"\n  {problem}" for problem in error.problems)
        show(f"{path}: cannot tell shapes, memory and time without data and model:{lines}")
        return
    try:
        _show_rules(path, blueprint, parts.plan)
        with tqdm(bar_format="{desc}", leave=False, disable=not is_terminal()) as line:
            tell = ProgressLines().say if line.disable else line.set_description_str
            found = estimate(blueprint, parts, seed=_SEED, tell=tell)
        space = checkpoint_space(protocol, ModelSize.of(parts.model))
    finally:
        parts.close()
    show_rows(f"{path}: a batch", found.batch.items(), columns=("field", "shape"))
    show_rows(f"{path}: the model's modules", found.stages.items(), columns=("module", "output"))
    facts = _facts(found, parts, compiled=protocol.setup.compile)
    findings = room_findings([space] * runs, facts)
    if found.peak_bytes is None:
        facts["Memory"] = "unknown: this system does not report it"
    else:
        findings += memory_findings(found.peak_bytes, parts.device, facts)
    show_rows(f"{path}: estimates", facts.items())
    for finding in findings:
        show(" ".join(filter(None, [f"warning: {finding.what}", finding.where, finding.remedy])))


def _show_rules(path: Path, blueprint: Blueprint, plan: ParameterPlan) -> None:
    rows, rules = [], [origin.rule for origin in plan.origins]
    for position, rule in enumerate(blueprint.protocol.parameters):
        first, count = rules.index(position) if rule.train else 0, rules.count(position)
        groups = f"groups {first}-{first + count - 1}" if count > 1 else f"group {first}"
        rows.append((rule.match, plan.summary[rule.match], groups if rule.train else ""))
    show_rows(f"{path}: what is trained", rows, columns=("names", "parameters", "optimizer"))
    if len(rules) > len(set(rules)):
        _show_layers(path, blueprint, plan)


def _show_layers(path: Path, blueprint: Blueprint, plan: ParameterPlan) -> None:
    """Show the tensors, weight decay and learning rate of each optimizer group."""
    rate = blueprint.protocol.setup.rate(world_size())
    optimizer, _ = build_optimization(blueprint, plan, rate=rate, batches=None)
    if optimizer is None:
        return
    rows = []
    for number, (group, origin) in enumerate(zip(optimizer.param_groups, plan.origins, strict=True)):
        decay = "0 (exempt)" if origin.exempt else f"{group.get('weight_decay', 0.0):g}"
        # A schedule with a warm-up has lowered the rate by now; `initial_lr` is the peak rate.
        peak = f"{group.get('initial_lr', group['lr']):.4g}"
        rows.append((str(number), ", ".join(origin.modules), str(len(origin.names)), decay, peak))
    columns = ("group", "layers", "tensors", "weight decay", "learning rate")
    show_rows(f"{path}: layers", rows, columns=columns)


def _facts(found: Estimates, parts: Parts, *, compiled: bool) -> dict[str, str]:
    sizes, sampling = parts.sizes, parts.training.sampling
    trains = "training" in found.steps
    validation = f"{sizes['validation']:,} for validation, " if "validation" in sizes else ""
    samples = f"{sizes['train']:,} for training, {validation}{sizes['test']:,} held out"
    facts = {"Samples": samples if trains else f"{sizes['test']:,} for evaluation"}
    if trains and sampling:
        facts["Sampling"] = sampling.description
    for activity, step in found.steps.items():
        extrapolated = f", extrapolated from {step.measured}" if step.measured < step.samples else ""
        facts[f"{activity.capitalize()} step"] = (
            f"{step.seconds:.3g} s for {step.samples} samples{extrapolated}"
        )
    if isinstance(found.checkpoint, str):
        facts["Checkpoint"] = f"not included, since writing one failed: {found.checkpoint}"
    elif trains:
        facts["Checkpoint"] = f"{found.checkpoint.seconds:.3g} s, written while the next epoch runs"
    facts["Epoch, with evaluation"] = f"about {duration(found.seconds_per_epoch)}"
    facts["Whole run"] = f"about {duration(found.seconds_per_run)}"
    facts["Not included"] = "data-loading workers, Evaluations, reporters, states saved within an epoch" + (
        "; measured without Setup.compile" if compiled else ""
    )
    return facts
