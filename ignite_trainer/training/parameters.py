"""Rules for parameter names, which determine gradients, optimizer groups and eval mode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.support.errors import ProtocolError


@dataclass(frozen=True, kw_only=True)
class ParameterPlan:
    """The rules of a protocol, applied to one model.

    Attributes:
        groups: parameter groups of the optimizer, one for each rule with `train`.
        frozen_modules: largest modules in which rules keep all parameters in eval mode; their batch norm
            statistics and dropout are in eval mode, too.
        summary: description of each rule's effect, keyed by the rule's pattern.
    """

    groups: list[dict[str, Any]]
    frozen_modules: tuple[nn.Module, ...]
    summary: dict[str, str]

    def train_mode(self, model: nn.Module) -> None:
        """Put the model in train mode, except for its frozen modules."""
        model.train()
        for module in self.frozen_modules:
            module.eval()


def apply_rules(
    model: nn.Module, rules: Sequence[ParameterRule], *, must_train: bool = True
) -> ParameterPlan:
    """Apply, to each parameter, the first rule that matches its whole name.

    Args:
        model: model in which `requires_grad` is set for all parameters.
        rules: rules in order of precedence.
        must_train: whether it is an error if no rule trains.

    Raises:
        ProtocolError: A rule applies to no parameter, a parameter matches no rule, or no rule trains.
    """
    named = dict(model.named_parameters())
    taken: list[list[str]] = [[] for _ in rules]
    orphans = []
    for name in named:
        position = next((i for i, rule in enumerate(rules) if re.fullmatch(rule.match, name)), None)
        if position is None:
            orphans.append(name)
        else:
            taken[position].append(name)
    _raise_problems(rules, taken, orphans, list(named), must_train=must_train)

    groups, summary, in_eval = [], {}, set[str]()
    for rule, names in zip(rules, taken, strict=True):
        for name in names:
            named[name].requires_grad_(rule.train)
        if rule.train:
            groups.append({"params": [named[name] for name in names], **rule.args})
        if rule.keeps_eval_mode:
            in_eval.update(names)
        count = sum(named[name].numel() for name in names)
        options = ", ".join(f"{key} {value}" for key, value in rule.args.items())
        how = ("trained" if rule.train else "frozen") + (", eval mode" if rule.keeps_eval_mode else "")
        summary[rule.match] = f"{count:,} in {len(names)} tensors, {how}" + (
            f" ({options})" if options else ""
        )
    return ParameterPlan(groups=groups, frozen_modules=_modules_of(model, in_eval), summary=summary)


def _raise_problems(
    rules: Sequence[ParameterRule],
    taken: list[list[str]],
    orphans: list[str],
    names: list[str],
    *,
    must_train: bool,
) -> None:
    problems = []
    for index, (rule, own) in enumerate(zip(rules, taken, strict=True)):
        if own:
            continue
        shadowed = any(re.fullmatch(rule.match, name) for name in names)
        why = (
            "earlier rules already match all of its parameters"
            if shadowed
            else "it matches no parameter of the model"
        )
        children = ", ".join(sorted({name.split(".")[0] for name in names})[:12])
        problems.append(f'Parameters[{index}].match is "{rule.match}"; {why}. Names begin with {children}.')
    if orphans:
        shown = ", ".join(orphans[:3]) + (f" and {len(orphans) - 3} more" if len(orphans) > 3 else "")
        problems.append(
            f'Parameters: no rule matches {shown}; for example, add {{"match": ".*", "train": false}} '
            "at the end."
        )
    if must_train and not any(rule.train for rule in rules):
        problems.append('Parameters: no rule trains anything; set "train": true in at least one rule.')
    if problems:
        raise ProtocolError(problems)


def _modules_of(model: nn.Module, names: set[str], prefix: str = "") -> tuple[nn.Module, ...]:
    """Return the largest modules that have parameters, all of them among `names`."""
    own = [prefix + name for name, _ in model.named_parameters()]
    if own and names.issuperset(own):
        return (model,)
    children = model.named_children()
    return tuple(found for name, child in children for found in _modules_of(child, names, f"{prefix}{name}."))
