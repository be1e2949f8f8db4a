"""`--explain`: every value of a protocol with its origin, what is trained, shapes, time, memory and disk.

No results are written. Parts that cannot be built, such as missing data, are named and the rest is explained.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ignite.utils import manual_seed
from tqdm import tqdm

from ignite_trainer.api.reporter import Split
from ignite_trainer.commands.check_room import ModelSize, checkpoint_space, memory_findings, room_findings
from ignite_trainer.commands.estimates import Estimates, estimate
from ignite_trainer.protocol.blueprint import Blueprint, draw
from ignite_trainer.protocol.loading import Value
from ignite_trainer.protocol.sections import Protocol
from ignite_trainer.runs.assembly import assemble, try_out_model, without_weights
from ignite_trainer.support.errors import ProtocolError
from ignite_trainer.support.formatting import duration
from ignite_trainer.support.progress import ProgressLines, is_terminal
from ignite_trainer.support.terminal import show, show_rows
from ignite_trainer.training.parameters import ParameterPlan, apply_rules

_SEED = 0
_KEY_WIDTH = 40


def carry_out(
    explained: Mapping[Path, tuple[Protocol, Sequence[Value]]], *, trusted: Iterable[str] = ()
) -> int:
    """Explain protocols, each with its values.

    Returns:
        0, or 2 if one names classes that do not exist, or arguments that they do not take.
    """
    status = 0
    for path, (protocol, values) in explained.items():
        _show_values(path, values)
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
        _explain_model(path, blueprint)
        lines = "".join(f"\n  {problem}" for problem in error.problems)
        show(f"{path}: shapes, memory and time cannot be told without data and model:{lines}")
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
    show_rows(f"{path}: stages of the model", found.stages.items(), columns=("module", "gives"))
    facts = _facts(found, parts.sizes, compiled=protocol.setup.compile)
    findings = room_findings([space] * runs, facts)
    if found.peak_bytes is None:
        facts["Memory"] = "not known: this system does not tell"
    else:
        findings += memory_findings(found.peak_bytes, parts.device, facts)
    show_rows(f"{path}: estimates", facts.items())
    for finding in findings:
        show(" ".join(filter(None, [f"warning: {finding.what}", finding.where, finding.remedy])))


def _explain_model(path: Path, blueprint: Blueprint) -> None:
    """Show what is trained if the model can be built; its problems are reported with those of other parts."""
    with contextlib.suppress(ProtocolError):
        model = try_out_model(without_weights(blueprint))
        _show_rules(path, blueprint, apply_rules(model, blueprint.protocol.parameters))


def _show_rules(path: Path, blueprint: Blueprint, plan: ParameterPlan) -> None:
    group, rows = 0, []
    for rule in blueprint.protocol.parameters:
        rows.append((rule.match, plan.summary[rule.match], f"group {group}" if rule.train else ""))
        group += rule.train
    show_rows(f"{path}: what is trained", rows, columns=("names", "parameters", "optimizer"))


def _facts(found: Estimates, sizes: Mapping[Split, int], *, compiled: bool) -> dict[str, str]:
    trains = "training" in found.steps
    facts = {
        "Samples": f"{sizes['train']:,} to train on, {sizes['test']:,} held out"
        if trains
        else f"{sizes['test']:,} to evaluate"
    }
    for activity, step in found.steps.items():
        extrapolated = f", extrapolated from {step.measured}" if step.measured < step.samples else ""
        facts[f"A step of {activity}"] = f"{step.seconds:.3g} s for {step.samples} samples{extrapolated}"
    if isinstance(found.checkpoint, str):
        facts["A checkpoint"] = f"not included, as none could be written: {found.checkpoint}"
    elif trains:
        facts["A checkpoint"] = f"{found.checkpoint.seconds:.3g} s, while the next epoch runs"
    facts["An epoch, evaluation included"] = f"about {duration(found.seconds_per_epoch)}"
    facts["The whole run"] = f"about {duration(found.seconds_per_run)}"
    facts["Not counted"] = "loader processes, Evaluations, reporters, states within an epoch" + (
        "; measured without Setup.compile" if compiled else ""
    )
    return facts


def _show_values(path: Path, values: Sequence[Value]) -> None:
    """Print a line for each value, unfolded, so that it can be searched and copied."""
    lines = [
        f"{value.path:<{_KEY_WIDTH}} {json.dumps(value.value, ensure_ascii=False)}  ({value.origin})"
        for value in values
    ]
    show("\n".join([f"{path}: every value, and who says so", *lines]))
