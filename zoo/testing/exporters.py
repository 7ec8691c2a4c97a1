"""Checks of an exporter, with a small model: its file, the file's logits, metadata and options."""

from __future__ import annotations

import inspect
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.engines.model import ExportableModel
from zoo.engines.runtime import Compute, calling, load_exported
from zoo.errors import PluginError
from zoo.exporter import OPTIONS, Exporter
from zoo.testing.subject import CLASSES, CheckFailed, CheckSkipped, Kind

#: Height and width of the model's images; they differ, so that swapped sides are found.
SIZE = (40, 32)

#: Metadata that is written, and looked for in the file.
METADATA = {"zoo_testing_key": "zoo-testing-value", "class_names": '["ant", "bee"]'}

#: Tolerance of a logit, relative to the largest one.
TOLERANCE = 1e-3

#: The same of a file with an option.
TOLERANCES = {"half": 0.02, "int8": 0.5, "with_resize": 0.05}

#: A version of operators that no format has.
NO_OPSET = 10**6


@dataclass
class ExporterSubject:
    """An exporter under test."""

    kind: ClassVar[Kind] = "exporter"
    shapes_only: ClassVar[bool] = False

    name: str
    exporter: Exporter
    folder: Path

    @cached_property
    def file(self) -> Path:
        """The model as a file that was moved to another folder after it was written."""
        self.skip_if_unavailable()
        written = self.folder / "written" / f"a{self.exporter.suffix}"
        written.parent.mkdir()
        with calling(self.name, self.exporter):
            self.write(written)
        found = sorted(path.name for path in written.parent.iterdir())
        files = self.exporter.files(written)
        if found != sorted(file.name for file in files):
            raise CheckFailed(
                f"asked to write {written.name} it writes {', '.join(found) or 'nothing'}: write "
                f"the single file `path`, and declare others as `companions`"
            )
        moved = self.folder / "moved" / f"b{self.exporter.suffix}"
        moved.parent.mkdir()
        for file, place in zip(files, self.exporter.files(moved), strict=True):
            file.rename(place)
        return moved

    @cached_property
    def compute(self) -> Compute:
        """The file, opened."""
        return load_exported(self.name, self.exporter, self.file, CLASSES)

    def skip_if_unavailable(self) -> None:
        """Skip the running check if the format can't be written here."""
        if self.exporter.unavailable is not None:
            raise CheckSkipped(f"it can't be written here: {self.exporter.unavailable}")

    def write(self, path: Path) -> None:
        """Write the model to that path."""
        model = small_model()
        self.exporter.write(model, model.example(), path, METADATA)


def check_exporter_is_declared(subject: ExporterSubject) -> None:
    """It is a `zoo.Exporter`, and its `write` and `open` are functions."""
    exporter = subject.exporter
    if not isinstance(exporter, Exporter):
        raise CheckFailed(f"it is a {type(exporter).__name__}: declare a zoo.Exporter")
    if not callable(exporter.write) or not callable(exporter.open):
        raise CheckFailed("its `write` and `open` must be functions")


def check_one_file_is_written(subject: ExporterSubject) -> None:
    """`write` writes the one file that it is asked for, which is complete by itself."""
    if not subject.file.stat().st_size:
        raise CheckFailed("the file that it writes is empty")


def check_logits_are_those_of_the_model(subject: ExporterSubject) -> None:
    """The file, opened by `open`, gives the logits of the model."""
    _compare(subject, 2)


def check_other_batch_sizes(subject: ExporterSubject) -> None:
    """The file takes one image and more images than the example has."""
    for images in (1, 5):
        try:
            _compare(subject, images)
        except PluginError as error:
            raise CheckFailed(
                f"for {images} images, where the example has 2: {error}; declare the batch "
                f"dimension as dynamic"
            ) from error


def check_metadata_is_kept(subject: ExporterSubject) -> None:
    """The metadata is inside the file."""
    key, value = next(iter(METADATA.items()))
    content = _content(subject.file)
    missing = [text for text in (key, value) if text.encode() not in content]
    if missing:
        raise CheckFailed(
            f"{' and '.join(missing)} of the metadata can't be found in the file: store all of "
            f"`metadata`; a format that compresses it may expect this failure"
        )


def check_declared_options_are_taken(subject: ExporterSubject) -> None:
    """`write` takes each option of `options`, and no other; the file gives the model's logits."""
    subject.skip_if_unavailable()
    exporter = subject.exporter
    parameters = inspect.signature(exporter.write).parameters
    undeclared = [o for o in OPTIONS if o in parameters and o not in exporter.options]
    if undeclared:
        raise CheckFailed(
            f"`write` has a parameter {undeclared[0]}, but zoo refuses this option: add it to "
            f"`options`"
        )
    for option in exporter.options:
        try:
            if option == "opset":
                _check_opset(subject)
            else:
                _check_option(subject, option)
        except PluginError as error:
            raise CheckFailed(
                f"with `{option}`: {error}; support it, or don't declare it"
            ) from error


def small_model(*, with_resize: bool = False) -> ExportableModel:
    """Return a small convolutional network with batch norm, always the same, as zoo exports it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )
    return ExportableModel(network, Preprocess(size=SIZE), with_resize=with_resize)


def _compare(subject: ExporterSubject, images: int) -> None:
    difference = _difference(subject.compute, small_model(), _pixels(images, 3, *SIZE))
    if difference > TOLERANCE:
        raise CheckFailed(
            f"for {images} images its file gives other logits than the model: they differ by "
            f"{difference:.2g} of the largest; write all weights, and don't normalise images, "
            f"which the model does itself"
        )


def _check_option(subject: ExporterSubject, option: str) -> None:
    """Write the model with an option, open the file, and compare it with the model."""
    exporter = subject.exporter
    path = subject.folder / option / f"a{exporter.suffix}"
    path.parent.mkdir()
    resize = option == "with_resize"
    shapes = [(70, 50, 3), (45, 90, 3)] if resize else [(3, *SIZE)]
    value = [_pixels(4, *shapes[0]).numpy() for _ in range(2)] if option == "int8" else True
    with calling(subject.name, exporter):
        model = small_model(with_resize=resize)
        options: dict[str, Any] = {option: value}
        exporter.write(model, model.example(), path, METADATA, **options)
    compute = load_exported(subject.name, exporter, path, CLASSES)
    for shape in shapes:
        difference = _difference(compute, small_model(with_resize=resize), _pixels(2, *shape))
        if difference > TOLERANCES[option]:
            raise CheckFailed(
                f"with `{option}` its file gives other logits than the model: they differ by "
                f"{difference:.2g} of the largest, more than {TOLERANCES[option]:g}"
            )


def _check_opset(subject: ExporterSubject) -> None:
    """Check that a version that does not exist is refused."""
    model, path = small_model(), subject.folder / f"opset{subject.exporter.suffix}"
    try:
        with calling(subject.name, subject.exporter):
            subject.exporter.write(model, model.example(), path, METADATA, opset=NO_OPSET)
    except PluginError as error:
        if isinstance(error.__cause__, ValueError):
            return
        raise
    raise CheckFailed(f"`write` takes opset {NO_OPSET}: raise ValueError if there is no such one")


def _pixels(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(shape[0])
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _difference(compute: Compute, model: nn.Module, pixels: Tensor) -> float:
    """Return the largest difference of a logit, relative to the largest one."""
    with torch.no_grad():
        expected = model(pixels).numpy()
    return float(np.abs(compute(pixels.numpy()) - expected).max() / np.abs(expected).max())


def _content(file: Path) -> bytes:
    """Return the bytes of a file; of a ZIP archive those of its members, decompressed."""
    if not zipfile.is_zipfile(file):
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return b"\n".join(name.encode() + b"\n" + archive.read(name) for name in archive.namelist())
