"""Rules for parameter names, which determine gradients, optimizer groups and eval mode."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from ignite_trainer.api.self_description import Layer, layers
from ignite_trainer.protocol.sections import ParameterRule
from ignite_trainer.support.errors import ProtocolError


@dataclass(frozen=True, kw_only=True)
class GroupOrigin:
    """The parameters of one optimizer group.

    Attributes:
        rule: position of the rule in `Parameters`.
        names: names of the parameters.
        modules: modules in the layers with these parameters, or the rule's pattern without `depth_decay`.
        rate: factor of the learning rate, `depth_decay` to the power of the layers' depth.
        exempt: whether `weight_decay_of` exempts the parameters from weight decay.
    """

    rule: int
    names: tuple[str, ...]
    modules: tuple[str, ...]
    rate: float
    exempt: bool


class GradientLimit(NamedTuple):
    """A rule's parameters, and the maximum norm of their gradients together."""

    parameters: tuple[nn.Parameter, ...]
    max_norm: float


@dataclass(frozen=True, kw_only=True)
class ParameterPlan:
    """The rules of a protocol, applied to one model.

    Attributes:
        groups: parameter groups of the optimizer, without the factors of the learning rates, in the order of
            the rules. A rule that trains has one group or, with `depth_decay` or `weight_decay_of`, several,
            the last layer first.
        origins: description of each group.
        limits: limits of the gradients, one for each rule with `max_gradient_norm`.
        frozen_modules: largest modules in which rules keep all parameters in eval mode; their batch norm
            statistics and dropout are in eval mode, too.
        summary: description of each rule's effect, keyed by the rule's pattern.
    """

    groups: list[dict[str, Any]]
    origins: list[GroupOrigin]
    limits: list[GradientLimit]
    frozen_modules: tuple[nn.Module, ...]
    summary: dict[str, str]

    @property
    def first_groups(self) -> list[int]:
        """Positions of each rule's first group, which has the highest learning rate in the rule."""
        rules = [origin.rule for origin in self.origins]
        return [rules.index(rule) for rule in dict.fromkeys(rules)]

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
        ProtocolError: A rule applies to no parameter, a parameter matches no rule, no rule trains, or the
            model does not declare the layers that a rule with `depth_decay` needs.
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
    of_layers = layers(model) if any(rule.depth_decay for rule in rules) else {}
    _require_layers(rules, taken, of_layers, type(model).__name__)

    origins: list[GroupOrigin] = []
    summary, in_eval = {}, set[str]()
    for position, (rule, names) in enumerate(zip(rules, taken, strict=True)):
        for name in names:
            named[name].requires_grad_(rule.train)
        if rule.train:
            origins += _groups_of(position, rule, {name: named[name] for name in names}, of_layers)
        if rule.keeps_eval_mode:
            in_eval.update(names)
        summary[rule.match] = _effect(rule, [named[name] for name in names])
    groups = [
        {
            "params": [named[name] for name in origin.names],
            **rules[origin.rule].args,
            **({"weight_decay": 0.0} if origin.exempt else {}),
        }
        for origin in origins
    ]
    limits = [
        GradientLimit(tuple(named[name] for name in names), rule.max_gradient_norm)
        for rule, names in zip(rules, taken, strict=True)
        if rule.max_gradient_norm is not None
    ]
    return ParameterPlan(
        groups=groups,
        origins=origins,
        limits=limits,
        frozen_modules=_modules_of(model, in_eval),
        summary=summary,
    )


def _effect(rule: ParameterRule, parameters: Sequence[nn.Parameter]) -> str:
    """Describe the effect of a rule on its parameters."""
    count = sum(parameter.numel() for parameter in parameters)
    settings = {
        **rule.args,
        **rule.model_dump(exclude={"match", "train", "mode", "args"}, exclude_defaults=True),
    }
    options = ", ".join(f"{key} {value}" for key, value in settings.items())
    how = ("trained" if rule.train else "frozen") + (", eval mode" if rule.keeps_eval_mode else "")
    return f"{count:,} in {len(parameters)} tensors, {how}" + (f" ({options})" if options else "")


def _groups_of(
    position: int, rule: ParameterRule, named: Mapping[str, nn.Parameter], of_layers: Mapping[str, Layer]
) -> list[GroupOrigin]:
    """Divide a rule's parameters into groups by depth and weight decay."""
    groups: dict[tuple[int, bool], list[str]] = defaultdict(list)
    for name, parameter in named.items():
        exempt = rule.weight_decay_of == "matrices" and parameter.ndim < 2
        groups[of_layers[name].depth if rule.depth_decay else 0, exempt].append(name)
    return [
        GroupOrigin(
            rule=position,
            names=tuple(names),
            modules=tuple(
                dict.fromkeys(of_layers[name].module if rule.depth_decay else rule.match for name in names)
            ),
            rate=(rule.depth_decay or 1.0) ** depth,
            exempt=exempt,
        )
        for (depth, exempt), names in sorted(groups.items())
    ]


def _require_layers(
    rules: Sequence[ParameterRule], taken: list[list[str]], of_layers: Mapping[str, Layer], model: str
) -> None:
    """Raise a ProtocolError if a rule with `depth_decay` has parameters whose layers are unknown."""
    problems = []
    for index, (rule, names) in enumerate(zip(rules, taken, strict=True)):
        unknown = [name for name in names if name not in of_layers]
        if rule.depth_decay and unknown:
            problems.append(
                f"Parameters[{index}].depth_decay is {rule.depth_decay:g}, but {model} does not declare the "
                f"layers of {_shown(unknown)} in a method layer_order. Give these parameters a rule without "
                "depth_decay, or declare their layers."
            )
    if problems:
        raise ProtocolError(problems)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


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
        problems.append(
            f"Parameters: no rule matches {_shown(orphans)}; for example, add "
            '{"match": ".*", "train": false} at the end.'
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
