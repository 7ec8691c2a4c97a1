"""Load the initial weights: pretrained ones from the first place that has them, or a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import plugins
from zoo.backbone import Backbone, Weights
from zoo.errors import PluginError, WeightsError, WeightsUnavailableError
from zoo.io.files import expand, is_file
from zoo.weights.added import read_added
from zoo.weights.files import fit, leads_out, read_state_dict
from zoo.weights.place import Place, find_places
from zoo.weights.retrieval import locate, looked_in, obtain

if TYPE_CHECKING:
    from torch import Tensor

    StateDict = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """A state dict and a description of its source.

    Attributes:
        state_dict: Tensors by name, original head included; None for random weights.
        source: Description of the source, for the plan and the run folder.
        notes: Notes for the user: places that were skipped, and plugins whose `zoo_weights` failed.
        file: The file they were read from, if known.
    """

    state_dict: StateDict | None
    source: str
    notes: tuple[str, ...] = ()
    file: Path | None = None


def load(backbone: Backbone, weights: str) -> LoadedWeights:
    """Load the initial weights.

    Args:
        backbone: The backbone.
        weights: `pretrained` (the first of `places` that has them), `none` (random), or a path: a
            .safetensors or PyTorch file, or a run folder.

    Raises:
        WeightsUnavailableError: If they are not on this machine and can't be downloaded.
        WeightsError: If there are none, or the file can't be read, is damaged or does not fit.
    """
    if weights == "none":
        return LoadedWeights(state_dict=None, source="random")
    if weights == "pretrained":
        return _load_pretrained(backbone)
    path = expand(weights)
    if is_file(path / "model.safetensors"):
        folder, path = path, path / "model.safetensors"
        if (target := leads_out(folder, path)) is not None:
            raise WeightsError(f"{path} is a link that leads out of its folder, to {target}")
    state_dict = plugins.convert(backbone, read_state_dict(path))
    return LoadedWeights(state_dict=state_dict, source=f"file {path}", file=path)


def describe(weights: Weights) -> str:
    """Describe in one line which weights these are and where they come from."""
    return (
        f"pretrained ({weights.tag}), {weights.place}"
        if weights.tag
        else f"pretrained, {weights.place}"
    )


def _load_pretrained(backbone: Backbone) -> LoadedWeights:
    found, notes = find_places(backbone)
    if not found:
        raise WeightsError(
            "\n".join([f"backbone {backbone.name} has no pretrained weights", *notes]),
            hint="start from a checkpoint, `backbone=hf-hub:OWNER/NAME`, from `weights=none` or "
            f"`weights=FILE`, or put a file in with `zoo weights add {backbone.name} FILE`",
        )
    answers: list[tuple[Place, WeightsUnavailableError]] = []
    for place in found:
        try:
            # A checkpoint may not be what its configuration says: its tensors are compared.
            own = place.kind == "own" and not backbone.definition
            loaded = _own(backbone, place) if own else _from_file(backbone, place)
        except WeightsUnavailableError as error:
            answers.append((place, error))
            continue
        skipped = (f"skipped the weights of {p.by}: {error}" for p, error in answers)
        return replace(loaded, notes=(*notes, *skipped))
    raise _unavailable(backbone, answers, notes) from answers[-1][1]


def _own(backbone: Backbone, place: Place) -> LoadedWeights:
    """Load the weights through the backbone's own library."""
    try:
        model = plugins.build(backbone, None, True)
    except PluginError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise WeightsUnavailableError(str(error.__cause__)) from error
    return LoadedWeights(
        state_dict=dict(model.state_dict()),
        source=describe(place.weights),
        file=locate(place.weights, own=True),
    )


def _from_file(backbone: Backbone, place: Place) -> LoadedWeights:
    """Load the weights from a file, which must fit strictly, original head included."""
    source = f"{describe(place.weights)}, {place.by}"
    if place.weights.license is not None:
        source += f", licence {place.weights.license}"
    if place.kind == "added" and place.file is not None:
        path = place.file
        state_dict = read_added(backbone.name, path)
    else:
        try:
            path = obtain(place.weights)
        except WeightsUnavailableError:
            raise
        except WeightsError as error:
            raise WeightsError(f"weights of {place.by}: {error.text}", hint=error.hint) from error
        state_dict = read_state_dict(path)
    fitted = fit(backbone, state_dict, source=f"{path}, {place.by}")
    return LoadedWeights(state_dict=fitted, source=source, file=path)


def _unavailable(
    backbone: Backbone,
    answers: list[tuple[Place, WeightsUnavailableError]],
    notes: tuple[str, ...],
) -> WeightsUnavailableError:
    said = f"the pretrained weights of {backbone.name} are not on this machine"
    lines = [f"{said} and could not be fetched."]
    for place, error in answers:
        own = place.kind == "own"
        lines += [
            f"  source:     {place.by}",
            f"  looked in:  {looked_in(place.weights, own=own)}",
            *([f"  then at:    {place.weights.place}"] if place.remote else []),
            f"  error:      {(str(error) or type(error).__name__).splitlines()[0]}",
        ]
    lines += [f"  also:       {note}" for note in notes]
    return WeightsUnavailableError(
        "\n".join(lines),
        hint="  to fix this, one of:\n"
        f"    `zoo weights fetch {backbone.name}` on a machine with network access, then copy\n"
        f"    the cache here;\n"
        f"    `zoo weights add {backbone.name} FILE` if you have the weights as a file\n"
        f"    (.safetensors or .pth), or `weights=FILE` for this run only;\n"
        f"    `backbone=efficientnet_lite0`, whose weights are installed with zoo;\n"
        f"    `weights=none` to train from random weights",
    )
