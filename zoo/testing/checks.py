"""All checks of each kind, in an order in which each comes after those that it depends on.

A check is a function of what is tested, such as a `Subject`, a backbone. It is named after what it
requires. It raises `CheckFailed` with what the author must change, `CheckSkipped` if it does not
apply, and returns if it passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from zoo.testing import built, declared, exporters, loggers, losses, sources, transforms, values
from zoo.testing.exporters import ExporterSubject
from zoo.testing.loggers import LoggerSubject
from zoo.testing.losses import LossSubject
from zoo.testing.sources import SourceSubject
from zoo.testing.subject import Kind, Subject
from zoo.testing.transforms import TransformSubject

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Check(Generic[T]):
    """A check and the checks that it depends on.

    Attributes:
        function: The function to run; its name is the check's.
        after: Checks whose failures it would only repeat, so that it is skipped if one failed.
        needs_values: Whether it reads values, which tensors on the meta device do not have.
    """

    function: Callable[[T], None]
    after: tuple[str, ...] = ()
    needs_values: bool = False

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.function.__name__


_BUILT = ("check_builds_without_weights", "check_head_is_there", "check_stages_exist")
_RUNS = (*_BUILT, "check_head_gets_the_classes")

CHECKS: tuple[Check[Subject], ...] = (
    *(
        Check(function=function)
        for function in (
            declared.check_name,
            declared.check_head_is_named,
            declared.check_preprocess_is_plausible,
            declared.check_options_are_named,
            declared.check_weights_are_described,
            declared.check_tags_are_declared,
            declared.check_files_are_json,
            declared.check_declaration_can_be_sent_to_processes,
            built.check_builds_without_weights,
        )
    ),
    Check(function=built.check_parameters_are_counted, after=_BUILT[:1]),
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
    Check(function=built.check_options_are_taken, after=_RUNS),
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
            values.check_frozen_backbone_does_not_change,
            values.check_state_dict_round_trip,
        )
    ),
)

_OPENED = ("check_data_is_opened", "check_splits_are_read")
_DESCRIBED = (*_OPENED, "check_samples_are_described")

SOURCE_CHECKS: tuple[Check[SourceSubject], ...] = (
    Check(function=sources.check_other_data_is_left_to_others),
    Check(function=sources.check_data_is_opened),
    Check(function=sources.check_splits_are_read, after=_OPENED[:1]),
    *(
        Check(function=function, after=_OPENED)
        for function in (
            sources.check_samples_are_described,
            sources.check_names_are_unique,
            sources.check_samples_are_the_same_each_time,
        )
    ),
    Check(function=sources.check_images_are_read, after=_DESCRIBED),
    Check(
        function=sources.check_samples_can_be_sent_to_processes,
        after=(*_DESCRIBED, "check_images_are_read"),
    ),
)

_WRITTEN = ("check_exporter_is_declared", "check_one_file_is_written")
_COMPUTES = (*_WRITTEN, "check_logits_are_those_of_the_model")

EXPORTER_CHECKS: tuple[Check[ExporterSubject], ...] = (
    Check(function=exporters.check_exporter_is_declared),
    Check(function=exporters.check_one_file_is_written, after=_WRITTEN[:1]),
    Check(function=exporters.check_metadata_is_kept, after=_WRITTEN),
    Check(function=exporters.check_logits_are_those_of_the_model, after=_WRITTEN),
    Check(function=exporters.check_other_batch_sizes, after=_COMPUTES),
    Check(function=exporters.check_declared_options_are_taken, after=_COMPUTES),
)

_MADE = ("check_logger_is_made", "check_events_are_taken")

LOGGER_CHECKS: tuple[Check[LoggerSubject], ...] = (
    Check(function=loggers.check_logger_is_made),
    Check(function=loggers.check_events_are_taken, after=_MADE[:1]),
    *(
        Check(function=function, after=_MADE)
        for function in (
            loggers.check_a_resumed_run_is_taken,
            loggers.check_other_events_are_ignored,
            loggers.check_nothing_is_printed,
            loggers.check_events_are_not_changed,
        )
    ),
)

_IS_LOSS = ("check_loss_is_made", "check_loss_is_one_number")

LOSS_CHECKS: tuple[Check[LossSubject], ...] = (
    Check(function=losses.check_loss_is_made),
    Check(function=losses.check_loss_is_one_number, after=_IS_LOSS[:1]),
    *(
        Check(function=function, after=_IS_LOSS)
        for function in (
            losses.check_gradient_reaches_the_logits,
            losses.check_loss_is_a_mean,
            losses.check_loss_keeps_nothing,
        )
    ),
)

_IS_TRANSFORM = ("check_transform_is_made", "check_pixels_keep_size_and_type")

TRANSFORM_CHECKS: tuple[Check[TransformSubject], ...] = (
    Check(function=transforms.check_transform_is_made),
    Check(function=transforms.check_pixels_keep_size_and_type, after=_IS_TRANSFORM[:1]),
    Check(function=transforms.check_one_seed_gives_one_view, after=_IS_TRANSFORM),
    Check(
        function=transforms.check_transform_can_be_sent_to_processes,
        after=(*_IS_TRANSFORM, "check_one_seed_gives_one_view"),
    ),
)


def names_of(checks: tuple[Check[T], ...]) -> tuple[str, ...]:
    """Return the names of checks."""
    return tuple(check.name for check in checks)


#: The names of all checks, by what they are of, in the order in which they run.
NAMES: dict[Kind, tuple[str, ...]] = {
    "backbone": names_of(CHECKS),
    "source": names_of(SOURCE_CHECKS),
    "exporter": names_of(EXPORTER_CHECKS),
    "logger": names_of(LOGGER_CHECKS),
    "loss": names_of(LOSS_CHECKS),
    "transform": names_of(TRANSFORM_CHECKS),
}
