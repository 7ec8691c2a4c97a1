"""What a plugin declares: plain, frozen data; callables only where data can't say it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from zoo.errors import PluginError

if TYPE_CHECKING:
    from torch import Tensor, nn

Interpolation = Literal["nearest", "bilinear", "bicubic"]
CropMode = Literal["center", "squash", "border"]

#: Pixels of an input's side that no network comes near to; more would ask for memory alone.
MAX_IMAGE_SIZE = 4096

#: Dotted path of a module, parameter or buffer, or several that have one depth. A path that ends
#: in `.*` stands for all children of that module that no entry before it names, each a depth;
#: those without a parameter or buffer, like activations, are passed over.
Stage = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image becomes the backbone's input, for validation and prediction alike.

    The image is resized to `resize` and the middle `size` of it is cut out, scaled to 0..1 and
    normalised per channel: `(x - mean) / std`.

    Attributes:
        size: Side of the square input in pixels, or (height, width).
        mean: Per-channel (RGB) mean, of pixel values in 0..1.
        std: Per-channel (RGB) standard deviation, of pixel values in 0..1.
        interpolation: `nearest`, `bilinear` or `bicubic` (Pillow's, antialiased).
        crop_pct: Share of the resized image's side that the crop keeps; `resize = size / crop_pct`.
        crop_mode: As in timm. `center`: shorter side to `resize`, centre crop. `squash`: both sides
            to `resize`, whatever the aspect ratio, then centre crop. `border`: longer side to
            `resize`, padded with the mean colour, then centre crop.
        fixed_size: Whether the backbone takes no other input size than this.
        value_range: Of images with more than 8 bits a channel, the values that become 0 and 255;
            None: those of their type. A run's is found over its train images.
    """

    size: int | tuple[int, int]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
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
        if not all(_three_numbers(v) for v in (self.mean, self.std)) or min(self.std) <= 0:
            raise PluginError(
                f"Preprocess: mean and std need three values each, std above 0; "
                f"got mean={self.mean!r}, std={self.std!r}"
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
    def height_width(self) -> tuple[int, int]:
        """Input size as (height, width)."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def resize(self) -> tuple[int, int]:
        """(height, width) to resize to before the crop."""
        # The epsilon keeps 224 / (224 / 236) at 236; without it the floor gives 235.
        height, width = (math.floor(side / self.crop_pct + 1e-6) for side in self.height_width)
        return height, width

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready data."""
        fields = asdict(self)
        if self.value_range is None:
            del fields["value_range"]  # Earlier versions know no such field.
        return fields

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """The inverse of `to_dict`. Raises PluginError or TypeError on values that don't fit."""
        tuples: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**tuples)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where a backbone's pretrained weights come from: exactly one of url, hub, package and path.

    Attributes:
        url: Address of a state dict; kept in torch.hub's cache.
        hub: Hugging Face hub repository id; kept in the hub's cache.
        package: Installed distribution that holds the file.
        path: A file on this machine or a mounted one.
        file: Name of the file in the repository or distribution, where it must be said.
        tag: Which of the backbone's weights these are, in the library's own words.
        sha256: SHA-256 of the file, or its published leading hex digits.
        license: Licence of the weights (an SPDX id where there is one), None if not stated.
    """

    url: str | None = None
    hub: str | None = None
    package: str | None = None
    path: str | None = None
    file: str | None = None
    tag: str | None = None
    sha256: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        places = (self.url, self.hub, self.package, self.path)
        if sum(place is not None for place in places) != 1:
            raise PluginError(
                f"Weights: give exactly one of url, hub, package and path, got {self!r}"
            )

    @property
    def place(self) -> str:
        """The one place, in words."""
        if self.url is not None:
            return self.url
        if self.path is not None:
            return self.path
        if self.hub is not None:
            return f"Hugging Face hub, {self.hub}"
        return f"installed package {self.package}"


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a backbone's classifier head is, for the cases that a path alone can't describe.

    Attributes:
        paths: Dotted paths of the leaf layers whose outputs are class scores, all of them where
            there are several. Whole components only: "head" never takes "head_dist".
        aux: Loss weights of auxiliary heads, for a network that in train mode gives a tuple: the
            logits, then those of each auxiliary head in this order. Their leaves are in `paths`.
        neck: Dotted paths of pretrained layers between the features and the head (pooled norm,
            hidden layers); they are of the backbone group, one depth beyond the last stage.
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
class Backbone:
    """A named pretrained network that a plugin declares.

    Attributes:
        name: Letters, digits, `.`, `_` and `-`. The plugin's entry-point name is put before it:
            files and errors say `<entry point>/<name>`.
        build: `(num_classes, pretrained) -> nn.Module`. `num_classes=None` builds the original
            head; a number builds a fresh one of that size (a factory that can't may ignore it:
            the core then replaces the declared leaves). `pretrained=True`, always with
            `num_classes=None`, loads the pretrained weights strictly, fetching them if it must;
            `False` never touches the network.
        head: A dotted path, several, or a `Head`.
        preprocess: How its input is prepared.
        weights: Where the pretrained weights come from; None if there are none.
        stages: What it computes, in that order, from the stem to the deepest block: each entry is a
            depth, for layer-wise learning rates and freezing. Together with head and neck they
            cover every parameter. A callable gets the built model, for a library that knows its
            layers' order only by asking them.
        resized: For a backbone of fixed input size: `image_size -> Backbone`, the same network
            built for another size (side of the square, in pixels), its pretrained position
            embeddings resampled as its library does. Raises ValueError, with the reason, for a
            size that can't be. None: it takes no other size.
        convert: `state_dict -> state_dict`: names and tensors of a file as the library published it
            to those of the model. Called with any file that a user gives, so one that fits already
            must come back as it is.
        config: What config.json says beside class names, so that the backbone's own library can
            load a run folder (timm: `architecture` and `pretrained_cfg`).
    """

    name: str
    build: Callable[[int | None, bool], nn.Module]
    head: str | tuple[str, ...] | Head
    preprocess: Preprocess
    weights: Weights | None = None
    stages: tuple[Stage, ...] | Callable[[nn.Module], Iterable[Stage]] = ()
    resized: Callable[[int], Backbone] | None = None
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _refuse_text(self, "stages")

    @property
    def head_paths(self) -> tuple[str, ...]:
        """The head's leaf paths, however the head was declared."""
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
    """A network that a plugin's library has but that is no backbone, and why.

    Attributes:
        name: As a backbone's.
        reason: For whoever asks for it: "a pure encoder, without a classifier".
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
    """Whether it is a finite number; by comparison, for an int may be too large for a float."""
    return isinstance(value, int | float) and abs(value) < 1e30


def _three_numbers(values: object) -> bool:
    return isinstance(values, tuple | list) and len(values) == 3 and all(map(_number, values))


def _refuse_text(declaration: object, *fields: str) -> None:
    """A forgotten comma makes text of a tuple, and its letters would be taken for paths."""
    for name in fields:
        value = getattr(declaration, name)
        if isinstance(value, str):
            raise PluginError(
                f"{type(declaration).__name__}: {name} is a tuple: write ({value!r},)"
            )
