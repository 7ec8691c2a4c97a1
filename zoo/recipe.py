"""The recipe: everything that a run is told, flat and typed. Field = key = flag."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from zoo.errors import RecipeError

_SECONDS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?[smh]", re.ASCII)


class Recipe(BaseModel):
    """What `zoo finetune` is told. docs/defaults.md says how the defaults were measured.

    Raises:
        pydantic.ValidationError: A wrong value. `make_recipe` gives the friendlier RecipeError.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    backbone: str = Field("efficientnet_lite0", min_length=1, description="Backbone to fine-tune.")
    weights: str = Field(
        "pretrained",
        min_length=1,
        description="Weights to start from: pretrained, none (random), or a file (.safetensors, "
        ".pth, or a run folder): all but its head is taken.",
    )
    data: str | None = Field(
        None,
        min_length=1,
        description="Folder with CLASS/IMAGE, or train/CLASS/IMAGE and val/CLASS/IMAGE. "
        "Without it: the demo, scikit-learn's handwritten digits.",
    )
    val_split: float = Field(
        0.2, gt=0, lt=1, description="Share of each class held out where there is no val folder."
    )
    strict: bool = Field(False, description="Make an unreadable image an error.")
    image_size: int | None = Field(
        None, ge=8, description="Side of the input in pixels. Without it: the backbone's own."
    )
    augment: Literal["none", "light", "strong"] = Field(
        "light", description="Random changes to training images: crops; strong adds TrivialAugment."
    )
    hflip: bool = Field(True, description="Mirror training images at random.")
    train: Literal["probe", "finetune", "probe+finetune"] = Field(
        "probe+finetune",
        description="probe: fit the head alone, on features that are computed once; finetune: "
        "train by gradient descent; both: the probe's head starts the fine-tuning (LP-FT).",
    )
    views: int | None = Field(
        None,
        ge=0,
        description="Augmented views of each training image, computed once where the backbone is "
        "frozen; 0: a probe sees each image as it is, fine-tuning draws new ones each epoch. "
        "Without it: 0, but up to 4 for a probe of fewer than 200 images.",
    )
    epochs: int = Field(5, ge=1, description="Times that every training image is seen.")
    batch_size: int | None = Field(
        None, ge=1, description="Images per step. Without it: chosen for the machine."
    )
    lr: float = Field(1e-3, gt=0, description="Learning rate of the backbone.")
    head_lr_mult: float = Field(
        10.0, gt=0, description="Learning rate of the head divided by the backbone's."
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimizer.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Learning rate of each depth of the backbone divided by that of the next "
        "deeper one; the deepest has --lr.",
    )
    weight_decay: float = Field(
        1e-4, ge=0, description="Weight decay of what trains, but for biases and norms."
    )
    wd_on_norms: bool = Field(False, description="Decay biases and norms too.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Learning rates over time: falling to 0 as a cosine, or constant."
    )
    warmup_epochs: float = Field(
        0.5, ge=0, description="Epochs over which learning rates rise from 0."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread evenly over the classes."
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="Weight of a class in the loss; balanced: rare ones count more."
    )
    freeze: int | str = Field(
        "none",
        description="Part of the backbone that stands still, buffers included: its first N depths, "
        "or all up to and including STAGE (zoo show lists them).",
    )
    unfreeze_epoch: int | tuple[int, ...] | None = Field(
        None,
        description="Epoch from whose start on what was frozen trains too. Several: a part of it "
        "at each, the deepest first.",
    )
    batch_norm: Literal["frozen", "train"] = Field(
        "frozen", description="Whether a backbone that trains also moves batch-norm statistics."
    )
    head_init: Literal["normal", "xavier_uniform", "library"] = Field(
        "normal", description="How the new head's weights start; library: as the backbone's own."
    )
    patience: int = Field(
        0, ge=0, description="Stop after so many epochs without a better val accuracy; 0: never."
    )
    on_nan: Literal["stop", "rewind"] = Field(
        "stop",
        description="What to do when the loss is not finite any more; rewind: go back to the last "
        "checkpoint, with half the learning rates.",
    )
    checkpoint_every: int | str = Field(
        "10m",
        description="How often to write a checkpoint besides at each epoch's end: after N steps, "
        "or after a time such as 30s, 10m or 2h.",
    )
    seed: int = Field(0, ge=0, description="Decides everything random.")
    deterministic: bool = Field(
        False,
        description="On a GPU: only algorithms that give the same bits each time; slower. "
        "A CPU's do.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to compute.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Mixed precision; auto: bf16 on GPUs that have it, else fp32."
    )
    workers: int | None = Field(
        None, ge=0, description="Processes that load images. Without it: chosen for the machine."
    )
    cache_size: float = Field(
        10.0,
        ge=0,
        description="Gigabytes that all caches on this machine may take together; 0: nothing is "
        "kept. Results don't depend on it.",
    )
    cache_dtype: Literal["fp32", "fp16"] = Field(
        "fp32", description="Precision of cached activations; fp16 takes half the room."
    )

    @field_validator("freeze", mode="before")
    @classmethod
    def _freeze(cls, value: object) -> object:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not good and not (isinstance(value, str) and value):
            raise ValueError(
                f"freeze = {value!r}: give none, backbone, a number of depths from 1 on, or a stage"
            )
        return value

    @field_validator("checkpoint_every", mode="before")
    @classmethod
    def _checkpoint_every(cls, value: object) -> object:
        steps = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not steps and not (isinstance(value, str) and _DURATION.fullmatch(value)):
            raise ValueError(
                f"checkpoint_every = {value!r}: give a number of steps from 1 on, "
                f"or a time such as 30s, 10m or 2h"
            )
        return value

    @field_validator("unfreeze_epoch", mode="before")
    @classmethod
    def _unfreeze_epoch(cls, value: object) -> object:
        if value is None:
            return None
        # TOML has lists only, and what is frozen holds none.
        epochs = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not epochs or not all(type(epoch) is int for epoch in epochs):
            raise ValueError(
                f"unfreeze_epoch = {value!r}: give an epoch (3) or several (2, 4), in whole numbers"
            )
        if epochs[0] < 2:
            raise ValueError(
                f"unfreeze_epoch = {value!r}: from 2 on; at 1 nothing would ever be frozen"
            )
        if any(later <= earlier for earlier, later in pairwise(epochs)):
            raise ValueError(f"unfreeze_epoch = {value!r}: each epoch must be later than the last")
        return epochs if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _unfreezes_what_is_frozen(self) -> Recipe:
        if self.unfreeze_epoch is None:
            return self
        if self.freeze == "none":
            raise ValueError(
                f"unfreeze_epoch = {self.unfreeze_epoch!r}: nothing is frozen; set freeze too"
            )
        if self.unfreeze_epochs[-1] > self.epochs:
            raise ValueError(
                f"unfreeze_epoch = {self.unfreeze_epoch!r}: the run has only {self.epochs} epochs"
            )
        return self

    @model_validator(mode="after")
    def _probes_a_frozen_backbone(self) -> Recipe:
        if self.train == "probe" and self.freeze not in ("none", "backbone"):
            raise ValueError(
                f'train = "probe" fits the head alone, so freeze = {self.freeze!r} means nothing; '
                f'leave it out, or use train = "probe+finetune"'
            )
        return self

    @property
    def checkpoint_seconds(self) -> float | None:
        """`checkpoint_every` in seconds; None where it is in steps."""
        if isinstance(self.checkpoint_every, int):
            return None
        return float(self.checkpoint_every[:-1]) * _SECONDS[self.checkpoint_every[-1]]

    @property
    def unfreeze_epochs(self) -> tuple[int, ...]:
        """`unfreeze_epoch` as a tuple, empty without one."""
        if self.unfreeze_epoch is None:
            return ()
        given = self.unfreeze_epoch
        return (given,) if isinstance(given, int) else given


def make_recipe(base: str | Path | Recipe | None = None, **overrides: object) -> Recipe:
    """A recipe from a TOML file or another recipe, and overrides, which win.

    What neither says has its default.

    Raises:
        RecipeError: The file can't be read, or keys or values are wrong: all of them, at once.
    """
    file = Path(base) if isinstance(base, str | Path) else None
    values = _read(file) if file else {}
    if isinstance(base, Recipe):
        values = base.model_dump(exclude_unset=True)
    paths_to_text = {k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()}
    values = {**values, **paths_to_text}
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        where = f"recipe {file}" if file else "recipe"
        problems = "\n".join(f"  {_problem(e)}" for e in error.errors())
        raise RecipeError(f"{where}:\n{problems}") from error


def dump_recipe(recipe: Recipe, heading: str = "") -> str:
    """The recipe as TOML that `make_recipe` reads back; a heading becomes its first comment."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + tomli_w.dumps(recipe.model_dump(exclude_none=True))


def change(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with other values, which count as given from then on."""
    return recipe.model_copy(update=values)


def _read(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"can't read recipe {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {file} is no TOML: {error}") from error


def _problem(error: Mapping[str, Any]) -> str:
    if error["type"] == "value_error":  # Of Recipe's own validators, whose text says it all.
        return str(error["ctx"]["error"])
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, list(Recipe.model_fields), n=1, cutoff=0.5)
        hint = (
            f"did you mean {nearest[0]!r}?"
            if nearest
            else f"keys: {', '.join(Recipe.model_fields)}"
        )
        return f"unknown key {key!r}; {hint}"
    given = error["input"]
    hint = ""
    if error["type"] == "literal_error" and isinstance(given, str):
        choices = [c.strip("'") for c in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        nearest = difflib.get_close_matches(given, choices, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"{key} = {given!r}: {error['msg'][0].lower()}{error['msg'][1:]}{hint}"
