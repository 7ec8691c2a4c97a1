"""What a plugin declares: plain, frozen data; callables only where data is not enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from zoo.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn

Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropMode = Literal["center", "squash", "border"]

#: Numbers of channels of images, and what they are.
CHANNELS = {1: "greyscale", 3: "RGB", 4: "RGB and a fourth band"}

#: Largest side of an input in pixels, far above that of any network; more only exhausts memory.
MAX_IMAGE_SIZE = 4096

#: Value of an option of a backbone.
OptionValue = bool | int | float | str

#: Types of options, as messages name their values.
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}

#: Dotted path of a module, parameter or buffer, or several that have the same depth. A path that
#: ends in `.*` stands for all children of that module that no earlier entry names, each a depth;
#: children without parameters and buffers, such as activations, are skipped.
Stage = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Preprocessing of an image for the backbone, the same for validation and prediction.

    The image is resized to `resize`, centre-cropped to `size`, scaled to 0..1 and normalised per
    channel: `(x - mean) / std`.

    Attributes:
        size: Side of the square input in pixels, or (height, width).
        mean: Mean of each channel (RGB), of pixel values in 0..1. Their number is that of the
            channels: one for greyscale images, four for images with a fourth band.
        std: Standard deviation of each channel, of pixel values in 0..1.
        interpolation: `nearest`, `bilinear` or `bicubic` (Pillow's, antialiased).
        crop_pct: Crop size as a fraction of the resized image; `resize = size / crop_pct`.
        crop_mode: As in timm. `center`: shorter side to `resize`, centre crop. `squash`: both sides
            to `resize`, whatever the aspect ratio, then centre crop. `border`: longer side to
            `resize`, padded with the mean colour, then centre crop.
        fixed_size: Whether the backbone accepts only this input size.
        value_range: For images with more than 8 bits per channel, the values mapped to 0 and 255;
            None: those of their data type. A run determines it from its train images.
    """

    size: int | tuple[int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"
    fixed_size: bool = False
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        if len(sides) != 2 or not all(type(s) is int and 1 <= s <= MAX_IMAGE_SIZE for s in sides):
            raise PluginError(
                f"Preprocess: size is one or two whole numbers from 1 to {MAX_IMAGE_SIZE}, "
                f"got {self.size!r}"
            )
        alike = all(map(_numbers, (self.mean, self.std))) and len(self.mean) == len(self.std)
        if not alike or len(self.mean) not in CHANNELS or min(self.std) <= 0:
            raise PluginError(
                f"Preprocess: mean and std need three values each (one or four if images have as "
                f"many channels), std above 0; got mean={self.mean!r}, std={self.std!r}"
            )
        if not _number(self.crop_pct) or self.crop_pct <= 0:
            raise PluginError(f"Preprocess: crop_pct must be above 0, got {self.crop_pct!r}")
        if any(side / self.crop_pct > 2 * MAX_IMAGE_SIZE for side in sides):
            raise PluginError(
                f"Preprocess: crop_pct {self.crop_pct!r} resizes images to more than "
                f"{2 * MAX_IMAGE_SIZE} pixels"
            )
        if type(self.fixed_size) is not bool:
            raise PluginError(f"Preprocess: fixed_size is True or False, got {self.fixed_size!r}")
        if self.value_range is not None and not _is_range(self.value_range):
            raise PluginError(
                f"Preprocess: value_range is a lower and a higher number, got {self.value_range!r}"
            )
        if self.interpolation not in get_args(Interpolation):
            raise PluginError(f"Preprocess: unknown interpolation {self.interpolation!r}")
        if self.crop_mode not in get_args(CropMode):
            raise PluginError(f"Preprocess: unknown crop_mode {self.crop_mode!r}")

    @property
    def channels(self) -> int:
        """Number of channels of the images, a key of `CHANNELS`."""
        return len(self.mean)

    @property
    def height_width(self) -> tuple[int, int]:
        """Input size in pixels as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def resize(self) -> tuple[int, int]:
        """Size before the crop, in pixels as (height, width)."""
        # The epsilon keeps 224 / (224 / 236) at 236; without it, floor would return 235.
        height, width = (math.floor(side / self.crop_pct + 1e-6) for side in self.height_width)
        return height, width

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as data that can be written as JSON."""
        fields = asdict(self)
        if self.value_range is None:
            del fields["value_range"]  # Earlier versions do not have this field.
        return fields

    def to_config(self) -> dict[str, Any]:
        """Return the fields as a run's config.json has them, in the terms of timm."""
        return {
            "input_size": [self.channels, *self.height_width],
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Create an instance from `to_dict`. Raises PluginError or TypeError on invalid values."""
        tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**tuples)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where a backbone's pretrained weights come from: exactly one of url, hub, package and path.

    Attributes:
        url: URL of a state dict; the file is stored in torch.hub's cache.
        hub: Hugging Face Hub repository id; the file is stored in the Hub's cache.
        package: Installed distribution that contains the file.
        path: Path of a local or mounted file.
        file: Name of the file in the repository or distribution, if it is ambiguous.
        tag: The library's name for these weights, if the backbone has several.
        sha256: SHA-256 of the file, or its published leading hex digits.
        license: Licence of the weights (an SPDX id where there is one), None if not stated.
        data: What they were trained on, None if not stated.
        num_classes: Classes of their own head; 0: without a head, None: not stated.
        metrics: Published metrics by name, in per cent, such as `{"ImageNet-1K acc@1": 80.9}`;
            `zoo backbones` lists that one as top-1.
    """

    url: str | None = None
    hub: str | None = None
    package: str | None = None
    path: str | None = None
    file: str | None = None
    tag: str | None = None
    sha256: str | None = None
    license: str | None = None
    data: str | None = None
    num_classes: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = (self.url, self.hub, self.package, self.path)
        if sum(place is not None for place in places) != 1:
            raise PluginError(
                f"Weights: give exactly one of url, hub, package and path, got {self!r}"
            )

    @property
    def top_1(self) -> float | None:
        """Published top-1 accuracy on ImageNet-1K in per cent, None if not stated."""
        return self.metrics.get("ImageNet-1K acc@1")

    @property
    def place(self) -> str:
        """A description of the place."""
        if self.url is not None:
            return self.url
        if self.path is not None:
            return self.path
        if self.hub is not None:
            return f"Hugging Face hub, {self.hub}"
        return f"installed package {self.package}"


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a backbone's classifier head is, if a path alone can't describe it.

    Attributes:
        paths: Dotted paths of all leaf layers whose outputs are class scores. Only whole
            components match: "head" does not match "head_dist".
        aux: Loss weights of auxiliary heads, for a network that returns a tuple in train mode: the
            logits, then those of each auxiliary head in this order. Their leaves are in `paths`.
        neck: Dotted paths of pretrained layers between the features and the head (pooled norm,
            hidden layers); they belong to the backbone group, one depth beyond the last stage.
        replace: `(leaf, num_classes) -> new leaf`, for leaves that are neither nn.Linear nor a
            convolution and whose `build` ignores `num_classes`.
    """

    paths: tuple[str, ...]
    aux: tuple[float, ...] = ()
    neck: tuple[str, ...] = ()
    replace: Callable[[nn.Module, int], nn.Module] | None = None

    def __post_init__(self) -> None:
        _refuse_text(self, "paths", "neck")


@dataclass(frozen=True, kw_only=True)
class Option:
    """An argument of a backbone's `build` beside the class count, which users may set.

    Attributes:
        kind: `bool`, `int`, `float` or `str`.
        help: What it does, in one sentence.
        default: The value if it is not set; None: the library's own for each network.
        minimum: Smallest value of a number; None: no limit. Runs from untrusted sources have
            options too, so an option that determines the size of the network needs a maximum.
        maximum: Largest value of a number; None: no limit.
    """

    kind: type[OptionValue]
    help: str
    default: OptionValue | None = None
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise PluginError(f"Option: kind is bool, int, float or str, got {self.kind!r}")
        limited = self.minimum is not None or self.maximum is not None
        if limited and self.kind not in (int, float):
            raise PluginError("Option: only numbers have a minimum and a maximum")
        if self.default is not None:
            try:
                self.checked(self.default)
            except ValueError as error:
                raise PluginError(f"Option: default {self.default!r}: {error}") from error

    @property
    def values(self) -> str:
        """A description of the valid values: "a number from 0 to 1"."""
        lower = "" if self.minimum is None else f" from {self.minimum:g}"
        upper = "" if self.maximum is None else f" to {self.maximum:g}"
        return f"{_KINDS[self.kind]}{lower}{upper}"

    def checked(self, value: object) -> OptionValue:
        """Return a value as the option's type.

        Raises:
            ValueError: The value has another type, or is out of range.
        """
        accepted = int | float if self.kind is float else self.kind
        good = isinstance(value, accepted) and isinstance(value, bool) == (self.kind is bool)
        if good and isinstance(value, int | float):
            low = -math.inf if self.minimum is None else self.minimum
            high = math.inf if self.maximum is None else self.maximum
            good = low <= value <= high and _number(value)
        if not good:
            raise ValueError(f"must be {self.values}")
        return self.kind(cast("Any", value))


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A named pretrained network that a plugin declares.

    Attributes:
        name: Letters, digits, `.`, `_` and `-`. The full name, used in files and errors, is
            `<entry point>/<name>`, with the plugin's entry-point name.
        build: `(num_classes, pretrained, **options) -> nn.Module`. `num_classes=None` builds the
            original head; a number builds a new one of that size (a factory may ignore it if it
            can't; the core then replaces the declared leaves). `pretrained=True`, always with
            `num_classes=None`, loads the pretrained weights strictly, downloading them if needed;
            `False` never accesses the network. Of `options` it gets those that are set.
        head: A dotted path, several, or a `Head`.
        preprocess: How its input is preprocessed.
        weights: Where the pretrained weights come from; None if there are none.
        parameters: Parameters of the network with its original head, auxiliary ones included; None
            if not stated.
        macs: Multiply-accumulates of one image of the size in `preprocess`, with the original head,
            in eval mode; None if not stated.
        stages: Parts of the network in order of computation, from the stem to the deepest block:
            each entry is a depth, for layer-wise learning rates and freezing. Together with head
            and neck they cover every parameter. A callable receives the built model, for a library
            in which only the model shows the order of its layers.
        tagged: Functions without arguments, by tag, that declare the same network with other
            published weights; preprocessing and class count may differ. `NAME.TAG` selects one.
            The tag of `weights` is among them.
        unused: Dotted paths of modules and parameters that the forward pass does not use, such as a
            mask token; they keep their values.
        resized: For a backbone of fixed input size: `image_size -> Backbone`, the same network
            built for another size (side of the square, in pixels), with pretrained position
            embeddings resampled as its library does. Raises ValueError, with the reason, for an
            unsupported size. None: no other size is supported.
        options: Arguments that `build` takes beside the class count, by name. The core knows one
            of them, `in_chans` (declared as `IN_CHANS`): the number of channels of the images.
            `build` makes a network for that many; the core adapts preprocessing and pretrained
            weights.
        configured: `(backbone, options) -> Backbone`, the same network built with values of
            `options`, where more than `build` depends on them. It receives this declaration, or
            the one that `resized` returned. Raises ValueError, with the reason, for values that
            this network does not take. None: they are passed to `build` as keyword arguments.
        convert: `state_dict -> state_dict`: converts names and tensors of a file published by the
            library to those of the model. It is called for every file that a user passes, so it
            must return a file that already fits unchanged.
        logits: `output -> logits` for a network whose forward pass returns something other than
            logits: a dict, a dataclass, a tuple of which they are a part. It receives that output,
            and returns what `build` otherwise would: logits (N, classes), in train mode with those
            of auxiliary heads, in a tuple.
        files: `(class_names, preprocess) -> contents by file name`: the JSON files that a run
            folder must hold beside model.safetensors so that the backbone's own library loads it.
            None: config.json with class names and preprocessing.
        definition: Of a backbone that `zoo_resolve` returns: JSON data that, with the name, suffice
            to declare the same network again. Runs keep them, so that they load where the Hub or
            the folder that the name refers to can't be reached.
    """

    name: str
    build: Callable[..., nn.Module]
    head: str | tuple[str, ...] | Head
    preprocess: Preprocess
    weights: Weights | None = None
    parameters: int | None = None
    macs: int | None = None
    tagged: Mapping[str, Callable[[], Backbone]] = field(default_factory=dict)
    stages: tuple[Stage, ...] | Callable[[nn.Module], Iterable[Stage]] = ()
    unused: tuple[str, ...] = ()
    resized: Callable[[int], Backbone] | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    configured: Callable[[Backbone, Mapping[str, OptionValue]], Backbone] | None = None
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    logits: Callable[[Any], Tensor | tuple[Tensor, ...]] | None = None
    files: Callable[[Sequence[str], Preprocess], Mapping[str, Mapping[str, Any]]] | None = None
    definition: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_text(self, "stages", "unused")
        for name in ("parameters", "macs"):
            number = getattr(self, name)
            if number is not None and (type(number) is not int or number < 0):
                raise PluginError(
                    f"Backbone: {name} is a whole number from 0 or None, got {number!r}"
                )

    @property
    def head_paths(self) -> tuple[str, ...]:
        """Paths of the head's leaves, in whichever form the head was declared."""
        if isinstance(self.head, Head):
            return self.head.paths
        return (self.head,) if isinstance(self.head, str) else tuple(self.head)

    @property
    def aux(self) -> tuple[float, ...]:
        """Loss weights of the auxiliary heads."""
        return self.head.aux if isinstance(self.head, Head) else ()

    @property
    def neck(self) -> tuple[str, ...]:
        """Paths of the neck."""
        return self.head.neck if isinstance(self.head, Head) else ()


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A network of a plugin's library that can't be a backbone, with the reason.

    Attributes:
        name: As in `Backbone`.
        reason: Shown if this network is requested: "a pure encoder, without a classifier".
    """

    name: str
    reason: str


def _is_range(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(map(_number, value))
        and value[0] < value[1]
    )


def _number(value: object) -> bool:
    """Return whether it is a finite number; compared, as an int may be too large for a float."""
    return isinstance(value, int | float) and abs(value) < 1e30


def _numbers(values: object) -> bool:
    return isinstance(values, tuple | list) and all(map(_number, values))


def _refuse_text(declaration: object, *fields: str) -> None:
    """Refuse a string instead of a tuple: without its comma, each letter would become a path."""
    for name in fields:
        value = getattr(declaration, name)
        if isinstance(value, str):
            raise PluginError(
                f"{type(declaration).__name__}: {name} is a tuple: write ({value!r},)"
            )


#: The option `in_chans` of `Backbone.options`.
IN_CHANS = Option(
    kind=int,
    default=3,
    minimum=min(CHANNELS),
    maximum=max(CHANNELS),
    help="Channels of images: 1 (greyscale), 3 (RGB) or 4 (RGB and a fourth band).",
)
