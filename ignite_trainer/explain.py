"""`--explain`: what a protocol comes to - every value with its origin, what is trained, shapes, time, memory.

Nothing is trained that is kept, and no results are written. What cannot be built (data that are not there,
say) is said, and the rest explained.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ignite.utils import manual_seed
from tqdm import tqdm

from ignite_trainer.assembly import assemble, try_out_model, without_weights
from ignite_trainer.blueprint import Blueprint, draw
from ignite_trainer.check import checkpoint_space
from ignite_trainer.check_room import memory_findings, room_findings
from ignite_trainer.errors import ProtocolError
from ignite_trainer.estimates import Estimates, estimate
from ignite_trainer.formatting import duration
from ignite_trainer.origins import Value
from ignite_trainer.parameters import ParameterPlan, apply_rules
from ignite_trainer.progress import ProgressLines, is_terminal
from ignite_trainer.protocol import Protocol
from ignite_trainer.rehearsal import Overhead
from ignite_trainer.reporters.reporter import Split
from ignite_trainer.reporters.terminal import add_row, make_table, show

_SEED = 0
_KEY_WIDTH = 40


def carry_out(
    explained: Mapping[Path, tuple[Protocol, Sequence[Value]]], *, trusted: Iterable[str] = ()
) -> int:
    """Explain protocols, each with its values.

    Returns:
        0, or 2 if one names classes that there are not, or arguments that they do not have.
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
    setup = protocol.setup.model_copy(update={"compile": False})
    plain = protocol.model_copy(update={"setup": setup, "evaluations": {}})
    blueprint = replace(blueprint, protocol=plain, evaluations={})
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
        spaces = checkpoint_space(blueprint, parts.model)
    finally:
        parts.close()
    _show_rows(f"{path}: a batch", ("field", "shape"), found.batch.items())
    _show_rows(f"{path}: stages of the model", ("module", "gives"), found.stages.items())
    facts = _facts(found, parts.sizes, compiled=protocol.setup.compile)
    findings = room_findings(spaces * runs, facts)
    if found.peak_bytes is None:
        facts["Memory"] = "not known: this system does not tell"
    else:
        findings += memory_findings(found.peak_bytes, parts.device, facts)
    _show_rows(f"{path}: estimates", ("", ""), facts.items())
    for finding in findings:
        show(" ".join(filter(None, [f"warning: {finding.what}", finding.where, finding.remedy])))


def _explain_model(path: Path, blueprint: Blueprint) -> None:
    """What is trained, where the model can be built though other parts cannot."""
    try:
        model = try_out_model(without_weights(blueprint))
        _show_rules(path, blueprint, apply_rules(model, blueprint.protocol.parameters))
    except ProtocolError:
        return  # said with the problems of the others


def _show_rules(path: Path, blueprint: Blueprint, plan: ParameterPlan) -> None:
    group, rows = 0, []
    for rule in blueprint.protocol.parameters:
        rows.append((rule.match, plan.summary[rule.match], f"group {group}" if rule.train else ""))
        group += rule.train
    _show_rows(f"{path}: what is trained", ("names", "parameters", "optimizer"), rows)


def _facts(found: Estimates, sizes: Mapping[Split, int], *, compiled: bool) -> dict[str, str]:
    held_out = f"{sizes['train']:,} to train on, {sizes['test']:,} held out"
    facts = {"Samples": held_out if "training" in found.activities else f"{sizes['test']:,} to evaluate"}
    for activity, each in found.activities.items():
        whole, measured = each.whole, ", ".join(str(point.samples) for point in each.measured)
        how = (
            "measured" if each.measured[-1].samples == whole.samples else f"from steps of {measured} samples"
        )
        facts[f"A step of {activity}"] = (
            f"{whole.seconds:.3g} s for {whole.samples} samples ({how}), the first one "
            f"{whole.seconds + whole.extra_of_first:.3g} s"
        )
    facts["An epoch, evaluation included"] = f"about {duration(found.seconds_per_epoch)}"
    facts["The whole run"] = f"about {duration(found.seconds_per_run)}"
    beside = found.beside_steps
    if isinstance(beside, Overhead):
        facts["Of that beside steps"] = (
            f"{beside.per_epoch:.3g} s an epoch for what is saved and drawn, {beside.once:.3g} s once"
        )
    else:
        facts["What is saved and drawn"] = f"is not in it, and could not be measured: {beside}"
    facts["Not counted"] = "loader processes, Evaluations, states within an epoch, dashboards" + (
        "; measured without Setup.compile" if compiled else ""
    )
    return facts


def _show_values(path: Path, values: Sequence[Value]) -> None:
    """A line for each value, which is left whole, so that it can be searched and copied."""
    lines = [
        f"{value.path:<{_KEY_WIDTH}} {json.dumps(value.value, ensure_ascii=False)}  ({value.origin})"
        for value in values
    ]
    show("\n".join([f"{path}: every value, and who says so", *lines]))


def _show_rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = make_table(title)
    table.show_header = any(columns)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        add_row(table, *row)
    show(table)
