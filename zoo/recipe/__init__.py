"""The recipe: all settings of a run, typed. Each field is a key of recipe files and a flag."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from zoo.backbone import MAX_IMAGE_SIZE, OptionValue
from zoo.errors import RecipeError
from zoo.io.files import is_file
from zoo.io.parse import MAX_TOML, parse_toml, read_bounded
from zoo.io.text import clip, count, printable
from zoo.recipe.fields import (
    check_backbone_options,
    check_checkpoint_every,
    check_freeze,
    check_optimizer_options,
    check_time,
    check_unfreeze_epoch,
    seconds_of,
)
from zoo.recipe.problems import problem

#: Files of the recipes packaged with zoo, by name.
PACKAGED = {f.stem: f for f in sorted(Path(__file__).with_name("packaged").glob("*.toml"))}

#: Maximum of integer fields; anything above it is a mistake.
_MOST = 10**9

#: Maximum number of invalid keys and values that are reported at once.
_MOST_PROBLEMS = 20

#: The first field of each section; the fields of `Recipe` are in the order of sections.
_FIRST_FIELDS = {
    "Data": "data",
    "Model": "backbone",
    "Training": "train",
    "Optimizer and loss": "lr",
    "Distillation": "teacher",
    "Augmentation": "augment",
    "Machine": "device",
}

_Schedule = Literal["cosine", "linear", "polynomial", "exponential", "one-cycle", "constant"]


class Recipe(BaseModel):
    """The settings of `zoo finetune`. docs/defaults.md says how the defaults were measured.

    Raises:
        pydantic.ValidationError: A value is invalid. `make_recipe` raises a clearer RecipeError.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    # Data
    data: str | None = Field(
        None,
        min_length=1,
        description="Folder with CLASS/IMAGE, or train/CLASS/IMAGE and val/CLASS/IMAGE, which may "
        "be in a ZIP archive; tar shards; a CSV, JSON Lines or Parquet table with path (or image) "
        "and label; or hf:NAME[@REVISION][:CONFIG], a dataset of the Hugging Face Hub. If omitted: "
        "the demo, scikit-learn's handwritten digits.",
    )
    val: str | None = Field(
        None,
        min_length=1,
        description="Folder or table of the val images, which choose the best epoch. Default: the "
        "val split of the data, or else a part of train.",
    )
    test: str | None = Field(
        None,
        min_length=1,
        description="Folder or table of the test images, which are evaluated once, with the final "
        "model. Default: the test split of the data, if there is one.",
    )
    task: Literal["auto", "single-label", "multi-label"] = Field(
        "auto",
        description="single-label: each image has one label; multi-label: any number of labels; "
        "auto: multi-label if some image has several labels or none.",
    )
    min_count: int = Field(
        1,
        ge=1,
        le=_MOST,
        description="Train images that a class needs; classes with fewer are left out, with their "
        "images, or, if images have several labels, without them.",
    )
    val_split: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Fraction of each class held out for validation if there are no val images; "
        "0: train on all images and keep the last epoch, without any val figures.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="Cross-validation: a run on each of N folds, the figures over all images, and "
        "a final model that is trained on all images for the mean of the best epochs.",
    )
    fold: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Only the run on this one of the folds, which is its val split.",
    )
    group_by: str | None = Field(
        None,
        min_length=1,
        description="Groups of images, such as those of one patient, that are never split between "
        "train and val: a column of the table; folder, for subfolders of class folders; or a "
        "regular expression with the group in parentheses, searched in the path of each image, "
        "such as '(patient[0-9]+)_'. Default: the source's own groups.",
    )
    scan: Literal["full", "sample", "none"] = Field(
        "full",
        description="Images that are read before training: full: all; sample: 10 of each class and "
        "split, at most 2,000 of a split; none: no image. Others are listed, and an unreadable one "
        "ends training. Data that is remote: sample, unless set.",
    )
    strict: bool = Field(
        False,
        description="Treat unreadable images, wrong extensions, and links that lead out of the "
        "data folder or in circles as errors.",
    )
    follow_links: bool = Field(
        False, description="Also follow links in the data folder that lead out of it."
    )
    allow_network: bool = Field(
        False,
        description="Also read images at addresses in a table, such as s3://bucket/a.jpg, that are "
        "not of the table's own server.",
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=MAX_IMAGE_SIZE,
        description="Height and width of the input in pixels. Default: the backbone's.",
    )
    # Model
    backbone: str = Field(
        "efficientnet_lite0",
        min_length=1,
        description="Backbone to fine-tune; auto: the best of those whose weights are on this "
        "machine, by cross-validated probes on the train images.",
    )
    backbone_options: Annotated[
        Mapping[str, OptionValue], BeforeValidator(check_backbone_options)
    ] = Field(
        {},
        description="Option of the backbone's network, such as drop_path_rate=0.1 (zoo show lists "
        "them).",
    )
    weights: str = Field(
        "pretrained",
        min_length=1,
        description="Initial weights: pretrained, none (random), or a file (.safetensors, .pth or "
        "a run folder), of which everything but the head is used.",
    )
    head_init: Literal["normal", "xavier_uniform", "library"] = Field(
        "normal",
        description="Initialization of the new head; library: as the backbone's library does it.",
    )
    freeze: Annotated[int | str, BeforeValidator(check_freeze)] = Field(
        "none",
        description="Part of the backbone that is frozen, buffers included: its first N depths, "
        "or all up to and including STAGE (zoo show lists them).",
    )
    unfreeze_epoch: Annotated[
        int | tuple[int, ...] | None, BeforeValidator(check_unfreeze_epoch)
    ] = Field(
        None,
        description="Epoch at which the frozen part starts to train. Several: gradual unfreezing, "
        "a part at each, the deepest first.",
    )
    batch_norm: Literal["frozen", "train"] = Field(
        "frozen",
        description="Whether batch-norm statistics of the trained part are updated (train) or "
        "fixed (frozen).",
    )
    lora_rank: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="LoRA: in fine-tuning, the backbone is frozen, and adapters of this rank on "
        "its linear layers and convolutions train instead; the run holds merged weights. "
        "Default: off.",
    )
    lora_alpha: float | None = Field(
        None,
        gt=0,
        description="LoRA: adapters are scaled by this divided by their rank. Default: twice the "
        "rank.",
    )
    # Training
    train: Literal["probe", "finetune", "probe+finetune"] = Field(
        "probe+finetune",
        description="probe: fit only the head, on features computed once; finetune: train by "
        "gradient descent; probe+finetune: fine-tuning starts from the probe's head (LP-FT).",
    )
    epochs: int = Field(6, ge=1, le=_MOST, description="Number of epochs.")
    steps: int | None = Field(
        None,
        ge=1,
        le=_MOST,
        description="Length of fine-tuning in steps; if `epochs` are set too, whichever is less. "
        "The schedule ends with the last step, which validation follows.",
    )
    samples: int | None = Field(
        None,
        ge=1,
        le=10**15,
        description="Length of fine-tuning in training images, rounded up to whole steps; as for "
        "`steps`.",
    )
    time: Annotated[str | None, BeforeValidator(check_time)] = Field(
        None,
        description="Time limit for the whole run, such as 90s, 10m or 2h: as many epochs as fit "
        "after the probe (at most `epochs`, or 30), estimated before the run starts.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        le=_MOST,
        description="Images per step and process; split if memory is too small. Default: chosen "
        "for the machine.",
    )
    global_batch: int | None = Field(
        None,
        ge=1,
        le=_MOST,
        description="Images per step over all processes, instead of `batch_size`: divided among "
        "them, and kept if their number changes. Scales the default learning rates.",
    )
    grad_accumulation: int = Field(
        1,
        ge=1,
        le=_MOST,
        description="Batches whose gradients are added up to one step: the same as a batch that is "
        "so many times as large, with the memory of one.",
    )
    views: int | None = Field(
        None,
        ge=0,
        le=_MOST,
        description="Augmented views of each training image that the epochs of fine-tuning use in "
        "turn; what a frozen part of the backbone computes of them is kept. 0, the default: new "
        "views in each epoch.",
    )
    probe_views: int | None = Field(
        None,
        ge=0,
        le=_MOST,
        description="Augmented views of each training image to which the probe is fitted, besides "
        "the image itself. Default: as many as `views`, or else up to 4 for fewer than 200 images.",
    )
    probe_scale: float = Field(
        0.25,
        gt=0,
        le=1,
        description="Factor on the probe's weights at the start of fine-tuning. A probe that is "
        "certain about every training image leaves no loss to learn from.",
    )
    interpolate: bool = Field(
        True,
        description="At the end, and before early stopping, also evaluate weights interpolated "
        "between the probe's and the last epoch's (WiSE-FT).",
    )
    metric: Literal["auto", "accuracy", "balanced-accuracy", "f1", "map", "log-loss"] = Field(
        "auto",
        description="Validation metric for choosing the best epoch and for early stopping; auto: "
        "accuracy, or balanced accuracy if the classes are strongly imbalanced; with several "
        "labels an image, map (mean average precision).",
    )
    patience: int | None = Field(
        None,
        ge=0,
        le=_MOST,
        description="Early stopping: epochs of fine-tuning without improvement of the metric over "
        "earlier ones; 0: off. Default: half of the epochs, at least 4.",
    )
    on_nan: Literal["restart", "rewind", "stop"] = Field(
        "restart",
        description="If training diverges (the loss is not finite or far above its initial value, "
        "or val accuracy drops to chance): restart: restart fine-tuning with 0.3 times the "
        "learning rates, up to three times; rewind: if the loss is not finite, return to the "
        "last checkpoint with half the learning rates; stop: exit with an error.",
    )
    checkpoint_every: Annotated[int | str, BeforeValidator(check_checkpoint_every)] = Field(
        "10m",
        description="Checkpoint interval within an epoch, in steps or as a time such as 30s, 10m "
        "or 2h. A checkpoint is always written at the end of an epoch.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Random seed.")
    # Optimizer and loss
    lr: float = Field(4e-4, gt=0, description="Learning rate of the backbone.")
    head_lr_mult: float = Field(
        10.0, gt=0, description="Learning rate of the head as a multiple of the backbone's."
    )
    optimizer: str = Field(
        "adamw",
        min_length=1,
        description="Optimizer: adamw, sgd, or one of timm's, such as lamb, lion or nadamw, with "
        "its own defaults (docs/defaults.md lists them).",
    )
    optimizer_options: Annotated[
        Mapping[str, OptionValue | tuple[int | float, ...]],
        BeforeValidator(check_optimizer_options),
    ] = Field(
        {},
        description="Option of the optimizer, such as eps=1e-6 or betas=0.9,0.99.",
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of SGD, and of other optimizers that have one."
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Layer-wise learning-rate decay: factor from each depth of the backbone to "
        "the one before it; the deepest has `lr`.",
    )
    weight_decay: float = Field(
        0.05, ge=0, description="Weight decay, not applied to biases and norms."
    )
    wd_on_norms: bool = Field(False, description="Apply weight decay to biases and norms too.")
    clip_grad: float = Field(1.0, ge=0, description="Maximum gradient norm; 0: no clipping.")
    schedule: _Schedule = Field(
        "cosine",
        description="Learning-rate schedule after warm-up: decay to 0 along a cosine, a line or a "
        "power of one, exponential decay, or constant; one-cycle: along a cosine up and down, the "
        "warm-up being the way up.",
    )
    schedule_power: float = Field(
        2.0,
        gt=0,
        le=100,
        description="Exponent of the polynomial schedule; of the exponential one, the powers of "
        "ten by which the learning rate has decayed at the end.",
    )
    warmup_epochs: float = Field(
        1.0,
        ge=0,
        description="Epochs of linear learning-rate warm-up. Default: 1; with `steps` or "
        "`samples`, at most a sixth of them.",
    )
    warmup_steps: int | None = Field(
        None,
        ge=0,
        le=_MOST,
        description="Steps of linear learning-rate warm-up, in place of `warmup_epochs`.",
    )
    warmup_start: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Learning rate of the first step of warm-up, as a fraction of the full one. "
        "Default: that of one step of warm-up; with one-cycle, 1/25.",
    )
    warmup_prefix: bool = Field(
        True,
        description="Whether the schedule starts after warm-up; if not, it starts with the run, "
        "and warm-up replaces its first steps.",
    )
    loss: str | None = Field(
        None,
        min_length=1,
        description="Loss of fine-tuning that a plugin declares, instead of cross-entropy (zoo "
        "plugins lists them).",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing, 0 to 1.")
    class_weights: Literal["auto", "none", "balanced"] = Field(
        "auto",
        description="Class weights in the loss; balanced: inverse class frequency (multi-label: "
        "negatives by positives of each label); auto: balanced if balanced accuracy is the "
        "deciding metric, else none.",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay per step of an exponential moving average of the weights, which is "
        "validated and kept instead of the last weights, such as 0.99; 0: off.",
    )
    average_epochs: int = Field(
        0,
        ge=0,
        le=_MOST,
        description="Average the weights after the last N epochs (SWA), 2 or more; the average is "
        "kept if it is better on val than the best epoch. 0: off.",
    )
    # Distillation
    teacher: str | None = Field(
        None,
        min_length=1,
        description="Distillation: run folder of a model, usually a larger one, whose outputs the "
        "run learns to match in fine-tuning, beside the labels. Its classes must be the same.",
    )
    distill_weight: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Distillation: weight of the teacher's part of the loss, that of the labels "
        "has the rest; 1: the teacher alone. Default: 0.5.",
    )
    distill_temperature: float | None = Field(
        None,
        gt=0,
        le=100,
        description="Distillation: both networks' logits are divided by this temperature. "
        "Default: 2.",
    )
    unlabelled: str | None = Field(
        None,
        min_length=1,
        description="Distillation: images without labels (a folder, or any other source), from "
        "which fine-tuning learns the teacher's outputs. Those that are also val or test images "
        "are left out.",
    )
    # Augmentation
    augment: Literal["none", "light", "strong", "rand-augment", "auto-augment"] = Field(
        "light",
        description="Augmentation of training images: random crops; strong adds TrivialAugment "
        "and random erasing, rand-augment and auto-augment the policies of these names.",
    )
    hflip: bool | None = Field(
        None,
        description="Random horizontal flips of training images. Default: decided by "
        "cross-validation of the probe on flipped images.",
    )
    crop_scale: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Smallest area of a random crop, as a fraction of the image. Default: 0.25 "
        "(0.2 with anything stronger than light), or 0.6 if cross-validation of the probe shows "
        "that smaller crops lose the object.",
    )
    random_erasing: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability with which a rectangle of a training image is replaced by the "
        "mean colour. Default: 0.1 with strong augmentation, else 0.",
    )
    repeated_augmentation: int = Field(
        1,
        ge=1,
        le=64,
        description="Views of each image in a batch of fine-tuning. An epoch has as many views as "
        "without, of a random part of the images: with 3, of every third.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Mixup in fine-tuning: alpha of the beta distribution from which shares are "
        "drawn; 0: off.",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=100,
        description="CutMix in fine-tuning: alpha of the beta distribution from which areas are "
        "drawn; 0: off. With mixup too, each batch gets one of the two.",
    )
    transform: str | None = Field(
        None,
        min_length=1,
        description="Transform that a plugin declares, applied to each augmented training image "
        "(zoo plugins lists them).",
    )
    # Machine
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device to compute on."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="Mixed precision; auto: bf16 on GPUs that support it, else fp32."
    )
    engine: str = Field(
        "auto",
        min_length=1,
        description="What computes the features of a probe: torch, or what exporters add, such as "
        "onnxruntime and openvino, in fp32 on the CPU. auto: from 2,000 images on, the engine that "
        "was fastest here when 5,000 or more images were first given; else torch.",
    )
    deterministic: bool = Field(
        False,
        description="Use only deterministic algorithms on a GPU; slower. On a CPU results are "
        "always deterministic.",
    )
    workers: int | None = Field(
        None,
        ge=0,
        le=1024,
        description="Data-loading processes. Default: chosen for the machine.",
    )
    cache_size: float = Field(
        10.0,
        ge=0,
        le=_MOST,
        description="Maximum size of all caches on this machine in GB; 0: no caching. Does not "
        "affect results.",
    )
    cache_dtype: Literal["fp32", "fp16"] = Field(
        "fp32", description="Precision of cached activations; fp16 halves their size."
    )
    collective_timeout: Annotated[str, BeforeValidator(check_time)] = Field(
        "10m",
        description="With several processes: time after which one that waits for others in a "
        "training step gives up, such as 90s. Scans, caches and probes may take longer.",
    )

    @field_validator(
        "backbone", "weights", "data", "val", "test", "group_by", "teacher", "unlabelled"
    )
    @classmethod
    def _has_no_nul(cls, value: str | None, about: ValidationInfo) -> str | None:
        if value is not None and "\0" in value:
            raise ValueError(f"{about.field_name} holds a NUL, which no name of a file has")
        return value

    @model_validator(mode="after")
    def _unfreezes_what_is_frozen(self) -> Recipe:
        if self.unfreeze_epoch is None:
            return self
        if self.freeze == "none":
            raise ValueError(
                f"unfreeze_epoch = {self.unfreeze_epoch!r}: nothing is frozen; set freeze too"
            )
        if self.steps is None and self.samples is None and self.unfreeze_epochs[-1] > self.epochs:
            raise ValueError(
                f"unfreeze_epoch = {self.unfreeze_epoch!r}: the run has only "
                f"{count(self.epochs, 'epoch')}"
            )
        return self

    @model_validator(mode="after")
    def _has_one_length(self) -> Recipe:
        lengths = {"steps": self.steps, "samples": self.samples, "time": self.time}
        given = [f"{name} = {value}" for name, value in lengths.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]}: {given[1]} is given too; leave one out")
        return self

    def length(self, processes: int) -> int | None:
        """Return the steps of fine-tuning that `steps` or `samples` specify; None: `epochs` do."""
        if self.samples is None:
            return self.steps
        return math.ceil(self.samples / (self.step_images(processes) * processes))

    @model_validator(mode="after")
    def _holds_out_a_fold(self) -> Recipe:
        if self.folds is not None and self.val is not None:
            raise ValueError(f"folds = {self.folds}: each fold is the val split; leave out val")
        if self.fold is not None and self.fold > (self.folds or 0):
            raise ValueError(f"fold = {self.fold}: there are {self.folds or 'no'} folds")
        return self

    @property
    def needs_folds(self) -> bool:
        """Whether runs on several folds are asked for."""
        return self.folds is not None and self.fold is None

    @property
    def held_out_fold(self) -> tuple[int, int] | None:
        """The fold that is the val split, from 1, and the number of folds; None without folds."""
        return None if self.fold is None else (self.fold, self.folds or 0)

    @model_validator(mode="after")
    def _probes_a_frozen_backbone(self) -> Recipe:
        if self.train == "probe" and self.freeze not in ("none", "backbone"):
            raise ValueError(
                f'train = "probe" fits the head alone, so freeze = {self.freeze!r} means nothing; '
                f'leave it out, or use train = "probe+finetune"'
            )
        return self

    @model_validator(mode="after")
    def _augments_what_is_augmented(self) -> Recipe:
        given = {
            f"random_erasing = {self.random_erasing or 0:g}": self.random_erasing,
            f"repeated_augmentation = {self.repeated_augmentation}": self.repeated_augmentation > 1,
        }
        if self.augment == "none" and (useless := [text for text, on in given.items() if on]):
            raise ValueError(
                f'{useless[0]}: augment = "none" leaves all images as they are; leave it out, or '
                f'use augment = "light"'
            )
        return self

    @model_validator(mode="after")
    def _warms_up_one_cycle(self) -> Recipe:
        if self.schedule == "one-cycle" and not self.warmup_prefix:
            raise ValueError(
                'warmup_prefix = false: schedule = "one-cycle" decays after its warm-up; leave it '
                "out, or use another schedule"
            )
        return self

    @model_validator(mode="after")
    def _has_one_batch_size(self) -> Recipe:
        if self.global_batch is not None and self.batch_size is not None:
            raise ValueError(
                f"global_batch = {self.global_batch}: batch_size = {self.batch_size} is given too; "
                f"leave one out"
            )
        return self

    @model_validator(mode="after")
    def _adapts_what_is_finetuned(self) -> Recipe:
        if self.lora_rank is None and self.lora_alpha is not None:
            raise ValueError(
                f"lora_alpha = {self.lora_alpha:g}: there are no adapters; set lora_rank too"
            )
        if self.lora_rank is not None and self.train == "probe":
            raise ValueError(
                f'lora_rank = {self.lora_rank}: there is nothing to adapt, as train = "probe" fits '
                f'the head alone; leave it out, or use train = "probe+finetune"'
            )
        return self

    @model_validator(mode="after")
    def _distils_in_finetuning(self) -> Recipe:
        useless = {
            "distill_weight": self.distill_weight,
            "distill_temperature": self.distill_temperature,
            "unlabelled": self.unlabelled,
        }
        given = [f"{name} = {value!r}" for name, value in useless.items() if value is not None]
        if self.teacher is None and given:
            raise ValueError(f"{given[0]}: there is no teacher; set teacher too")
        if self.teacher is not None and self.train == "probe":
            raise ValueError(
                f'teacher = {self.teacher!r}: only fine-tuning learns from it, and train = "probe" '
                f'fits the head alone; leave it out, or use train = "probe+finetune"'
            )
        return self

    @model_validator(mode="after")
    def _averages_several_epochs(self) -> Recipe:
        if self.average_epochs == 1:
            raise ValueError(
                "average_epochs = 1: the average of one epoch is that epoch; give 2 or more, or 0"
            )
        return self

    def batch_images(self, processes: int) -> int:
        """Return the images per batch and process, of which a step may accumulate several."""
        if self.global_batch is None:
            return self.batch_size or 1
        return self.global_batch // (processes * self.grad_accumulation)

    def step_images(self, processes: int) -> int:
        """Return the images per step and process."""
        return self.batch_images(processes) * self.grad_accumulation

    @property
    def most_stale_epochs(self) -> int | None:
        """Epochs without improvement of the metric after which training stops; None: never."""
        if self.patience is None:
            return max(4, self.epochs // 2)
        return self.patience or None

    @property
    def checkpoint_seconds(self) -> float | None:
        """`checkpoint_every` in seconds; None if it is a number of steps."""
        if isinstance(self.checkpoint_every, int):
            return None
        return seconds_of(self.checkpoint_every)

    @property
    def unfreeze_epochs(self) -> tuple[int, ...]:
        """`unfreeze_epoch` as a tuple, which is empty if it is None."""
        if self.unfreeze_epoch is None:
            return ()
        given = self.unfreeze_epoch
        return (given,) if isinstance(given, int) else given


def _sections() -> dict[str, tuple[str, ...]]:
    names = tuple(Recipe.model_fields)
    starts = [names.index(first) for first in _FIRST_FIELDS.values()]
    ends = [*starts[1:], len(names)]
    return {
        title: names[start:end]
        for title, start, end in zip(_FIRST_FIELDS, starts, ends, strict=True)
    }


#: Fields by section, in recipe files, the help and the documentation.
SECTIONS = _sections()

#: Fields by the name of their table in a recipe file.
_FIELDS_OF = {title.split()[0].lower(): fields for title, fields in SECTIONS.items()}


def make_recipe(base: str | Path | Recipe | None = None, **overrides: object) -> Recipe:
    """Make a recipe from a TOML file or another recipe, and overrides, which take precedence.

    Args:
        base: A TOML file or a recipe. A string without a folder and without `.toml` is the name
            of a packaged recipe. None: the defaults.
        **overrides: Values by field.

    Raises:
        RecipeError: There is no such recipe, the file can't be read, or keys or values are invalid.
            The message lists all that are.
    """
    values, where = read_values(base)
    paths_to_text = {k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()}
    for one, other in (("batch_size", "global_batch"), ("global_batch", "batch_size")):
        if overrides.get(one) is not None and other not in overrides:
            values.pop(other, None)
    return checked_recipe({**values, **paths_to_text}, where=where)


def read_values(base: str | Path | Recipe | None) -> tuple[dict[str, object], str]:
    """Return the values that a recipe sets, by field and not yet checked, and its name.

    Args:
        base: As in `make_recipe`.

    Raises:
        RecipeError: There is no such recipe, or the file can't be read.
    """
    if base is None:
        return {}, "recipe"
    if isinstance(base, Recipe):
        return base.model_dump(exclude_unset=True), "recipe"
    name = isinstance(base, str) and _is_name(base)
    file = _packaged(str(base)) if name else Path(base)
    where = f"recipe {file}"
    return _flat(_read(file), where=where), where


def checked_recipe(values: Mapping[str, object], *, where: str = "recipe") -> Recipe:
    """Validate values and return them as a recipe.

    Args:
        values: Values by field, at the top level or in sections.
        where: Where the values are from, for the message.

    Raises:
        RecipeError: Keys or values are invalid. The message lists all that are.
    """
    try:
        return Recipe.model_validate(_flat(values, where=where))
    except ValidationError as error:
        wrong = error.errors()
        problems = [f"  {problem(e, list(Recipe.model_fields))}" for e in wrong[:_MOST_PROBLEMS]]
        if len(wrong) > _MOST_PROBLEMS:
            problems.append(f"  and {len(wrong) - _MOST_PROBLEMS} more")
        raise RecipeError("\n".join([f"{where}:", *problems])) from error


def dump_recipe(
    recipe: Recipe,
    heading: str = "",
    origins: Mapping[str, str] | None = None,
    *,
    only_set: bool = False,
) -> str:
    """Return the recipe as TOML in sections, which `make_recipe` reads back.

    Args:
        recipe: The recipe; fields that are None are not written.
        heading: Comment at the top of the file.
        origins: Origin of each value, by field, for a comment after it; none for `default`.
        only_set: Write only the fields that are set; zoo decides the others again.
    """
    lines = [f"# {line}" for line in heading.splitlines()]
    values = recipe.model_dump(exclude_none=True, exclude_unset=only_set)
    for section, fields in _FIELDS_OF.items():
        if only_set and not values.keys() & set(fields):
            continue
        lines += ["", f"[{section}]"]
        for name in fields:
            if name in values:
                line = _line(name, values[name])
                origin = (origins or {}).get(name, "default")
                lines.append(line if origin == "default" else f"{line}  # {printable(origin)}")
    return "\n".join(lines).lstrip() + "\n"


def read_origins(text: str, recipe: Recipe) -> dict[str, str]:
    """Return the origins, by field, of values that are still those `dump_recipe` has written."""
    lines = text.splitlines()
    found = {}
    for name, value in recipe.model_dump(exclude_none=True).items():
        start = f"{_line(name, value)}  # "
        line = next((line for line in lines if line.startswith(start)), None)
        if line is not None:
            found[name] = line.removeprefix(start)
    return found


def _line(name: str, value: object) -> str:
    """Return a key and its value in one line of TOML: tables and lists are written inline."""
    if isinstance(value, dict):
        entries = ", ".join(_line(each, inner) for each, inner in value.items())
        return f"{name} = {{ {entries} }}" if entries else f"{name} = {{}}"
    if isinstance(value, tuple):
        return f"{name} = [{', '.join(map(repr, value))}]"
    return tomli_w.dumps({name: value}).rstrip()


def change(recipe: Recipe, **values: Any) -> Recipe:
    """Return a copy of the recipe with other values, which count as set by the user."""
    return recipe.model_copy(update=values)


def _flat(values: Mapping[str, object], *, where: str) -> dict[str, object]:
    """Return the values of a recipe file, which may have its keys in tables of sections, by field.

    Raises:
        RecipeError: A key is in the table of another section, or occurs twice.
    """
    flat: dict[str, object] = {}
    for name, value in values.items():
        table = value if isinstance(value, dict) and name in _FIELDS_OF else {name: value}
        for key, each in table.items():
            home = next((s for s, fields in _FIELDS_OF.items() if key in fields), None)
            if table is value and home not in (name, None):
                raise RecipeError(f"{where}: {key} in [{name}]: it belongs in [{home}]")
            if key in flat:
                raise RecipeError(f"{where}: {key} is given twice")
            flat[key] = each
    return flat


def _is_name(text: str) -> bool:
    return Path(text).name == text and Path(text).suffix.lower() != ".toml"


def _packaged(name: str) -> Path:
    """Return the file of the packaged recipe of that name.

    Raises:
        RecipeError: There is none, or the current folder has a file of the same name.
    """
    here = next((file for file in (name, f"{name}.toml") if is_file(Path(file))), None)
    if name not in PACKAGED:
        meant = f"; write ./{here} for the file here" if here else ""
        raise RecipeError(f"no recipe {clip(name)!r}", hint=f"known: {', '.join(PACKAGED)}{meant}")
    if here:
        raise RecipeError(
            f"recipe {name!r} is one of zoo's and a file here",
            hint=f"write ./{here} for the file, or rename it for zoo's",
        )
    return PACKAGED[name]


def _read(file: Path) -> dict[str, object]:
    try:
        return parse_toml(read_bounded(file, MAX_TOML).decode())
    except OSError as error:
        raise RecipeError(f"can't read recipe {file}: {error.strerror}") from error
    except ValueError as error:
        raise RecipeError(f"recipe {file} is not valid TOML: {clip(str(error))}") from error
