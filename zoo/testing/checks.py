"""All checks, in an order in which each comes after those that it depends on.

A check is a function of a `Subject`, named after what it requires. It raises `CheckFailed` with
what the author must change, `CheckSkipped` if it does not apply, and returns if it passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zoo.testing import built, declared, values
from zoo.testing.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check and the checks that it depends on.

    Attributes:
        function: The function to run; its name is the check's.
        after: Checks whose failures it would only repeat, so that it is skipped if one failed.
        needs_values: Whether it reads values, which tensors on the meta device do not have.
    """

    function: Callable[[Subject], None]
    after: tuple[str, ...] = ()
    needs_values: bool = False

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__


_BUILT = ("check_builds_without_weights", "check_head_is_there", "check_stages_exist")
_RUNS = (*_BUILT, "check_head_gets_the_classes")

CHECKS: tuple[Check, ...] = (
    *(
        Check(function=function)
        for function in (
            declared.check_name,
            declared.check_head_is_named,
            declared.check_preprocess_is_plausible,
            declared.check_weights_are_described,
            declared.check_tags_are_declared,
            declared.check_files_are_json,
            declared.check_declaration_can_be_sent_to_processes,
            built.check_builds_without_weights,
        )
    ),
    Check(function=built.check_head_is_there, after=_BUILT[:1]),
    Check(function=built.check_stages_exist, after=_BUILT[:2]),
    *(
        Check(function=function, after=_BUILT)
        for function in (
            built.check_head_gets_the_classes,
            built.check_head_is_what_the_classes_change,
            built.check_num_classes_is_true,
            built.check_head_group_is_the_head,
            built.check_each_parameter_is_in_one_group,
            built.check_modes_switch,
            built.check_stages_cover_all,
        )
    ),
    Check(function=built.check_auxiliary_logits_are_in_order, after=_RUNS),
    Check(function=built.check_every_parameter_is_used, after=_RUNS),
    Check(function=built.check_stages_are_in_order, after=(*_RUNS, "check_stages_cover_all")),
    Check(function=built.check_other_sizes, after=_RUNS),
    *(
        Check(function=function, after=_BUILT, needs_values=True)
        for function in (
            values.check_one_seed_gives_one_network,
            values.check_pretrained_weights_load,
            values.check_other_weights_stay_bit_identical,
        )
    ),
    *(
        Check(function=function, after=_RUNS, needs_values=True)
        for function in (
            values.check_eval_is_deterministic,
            values.check_images_do_not_affect_each_other,
            values.check_memory_layout_changes_nothing,
            values.check_gradients_reach_head_and_backbone,
            values.check_frozen_backbone_stands_still,
            values.check_state_dict_round_trip,
        )
    ),
)
