"""The table of parameter groups in the plan: learning rates, weight decay, freezing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from zoo.models.depth import Depths
from zoo.models.freeze import Freezing
from zoo.models.groups import Setting


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """A row of the plan: depths that are trained with the same settings, or the head.

    Attributes:
        name: "backbone" for all of it, "conv1 .. layer2.1" for some depths, "head".
        part: "backbone" or "head".
        parameters: Number of parameters (scalars): those that train, or all that are frozen.
        lr: Peak learning rate.
        weight_decay: Weight decay of all but `without_decay` of them.
        without_decay: Number of parameters (biases, norms, layer scales) without weight decay.
        trains_from: First epoch in which it is trained, None if it never is.
    """

    name: str
    part: str
    parameters: int
    lr: float
    weight_decay: float
    without_decay: int
    trains_from: int | None

    @property
    def frozen(self) -> bool:
        """Whether it is never trained."""
        return self.trains_from is None


def plan_groups(
    settings: list[Setting], depths: Depths, freezing: Freezing, *, weight_decay: float
) -> tuple[GroupPlan, ...]:
    """Return the rows from the stem to the head, with adjacent depths of equal settings merged."""
    # Beside adapters, the network's own parameters don't train even where nothing is frozen.
    settings = [
        setting
        for setting in settings
        if setting.parameter.requires_grad
        or (setting.depth is not None and setting.depth < freezing.always)
    ]
    rows: list[GroupPlan] = []
    first = 0
    for depth in range(len(depths)):
        row = _row(settings, depth, depths.span(depth, depth), freezing, weight_decay)
        if row.parameters == 0:  # The stage has only pooling or activations.
            continue
        last = rows[-1] if rows else None
        alike = last and last.trains_from == row.trains_from and (row.frozen or last.lr == row.lr)
        if last and alike:
            rows[-1] = replace(
                last,
                name=depths.span(first, depth),
                parameters=last.parameters + row.parameters,
                without_decay=last.without_decay + row.without_decay,
            )
        else:
            first = depth
            rows.append(row)
    if len(rows) == 1:
        rows = [replace(rows[0], name="backbone")]
    return (*rows, _row(settings, None, "head", freezing, weight_decay))


def _row(
    settings: list[Setting], depth: int | None, name: str, freezing: Freezing, weight_decay: float
) -> GroupPlan:
    mine = [setting for setting in settings if setting.depth == depth]
    undecayed = [setting for setting in mine if not setting.decays]
    return GroupPlan(
        name=name,
        part="head" if depth is None else "backbone",
        parameters=sum(setting.parameter.numel() for setting in mine),
        lr=mine[0].lr if mine else 0.0,
        weight_decay=weight_decay,
        without_decay=sum(setting.parameter.numel() for setting in undecayed),
        trains_from=1 if depth is None else freezing.trains_from(depth),
    )
