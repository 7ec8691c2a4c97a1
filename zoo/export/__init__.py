"""Export a run to a file for another runtime, and verify that its predictions match the run's."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from zoo import plugins
from zoo.errors import PluginError, RunError
from zoo.export.model import ExportableModel, metadata_of
from zoo.export.proof import ExportReport, compare, images_for
from zoo.export.runtime import calling, load_exported
from zoo.exporter import Exporter
from zoo.io.files import expand, is_file, replacing
from zoo.runs.folder import check_space
from zoo.runs.read import Run

__all__ = ["MIN_AGREEMENT", "ExportReport", "export"]

#: Default minimum fraction of images for which file and run must predict the same labels.
MIN_AGREEMENT = 0.995


def export(
    run: Run,
    to: str,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    min_agreement: float = MIN_AGREEMENT,
) -> ExportReport:
    """Export a run to another format, after verifying that predictions match the run's.

    The file maps images (N, C, H, W) uint8, usually RGB, resized and cropped as in validation, to
    logits (N, classes) float32, for any N, and includes the normalisation and the division of
    logits by the run's temperature, so that their softmax or sigmoid is the run's probabilities.
    Before it is moved to its place, it is loaded with the format's own runtime and compared with
    the run on the run's validation images. The comparison is written beside it as JSON.

    Args:
        run: The run.
        to: Name of a format that a plugin declares, such as `onnx`.
        out: The file to write. Default: the run folder's name with the format's suffix, beside the
            run folder.
        data: A labelled folder or table, as in `run.evaluate`. Default: the data that the run was
            trained on, or random images if that is no longer available.
        min_agreement: Minimum fraction of images, 0..1, with the same predicted labels as the run.

    Returns:
        The comparison.

    Raises:
        PluginError: If there is no such format, a library for it is not installed, or the exporter
            fails, for example because the format does not support an operator of the model.
        RunError: If the file can't be written or exists, or too few labels agree. No file is left
            behind.
        DataError: If `data` can't be used.
    """
    exporter = plugins.declared_as("zoo_exporters", to)
    if not isinstance(exporter, Exporter):
        raise PluginError(f"exporter {to} is {exporter!r}, not a zoo.Exporter")
    out = _free_place(run, exporter, out)
    model = ExportableModel(run.model, run.info.preprocess, run.info.temperature)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    check_space(out, str(out), size + 2**20)
    with _folder_beside(out) as folder:
        file = folder / out.name
        with calling(to, exporter):
            exporter.write(model, model.example(), file, metadata_of(run))
        compute = load_exported(to, exporter, file, len(run.class_names))
        images = images_for(run, None if data is None else expand(data))
        report = compare(run, compute, images, exported=(to, str(out), file.stat().st_size))
        if report.agreement < min_agreement:
            raise RunError(
                f"{to} gives other labels than the run: they agree on {report.agreement:.2%} of "
                f"{report.images} images ({report.source}), at least {min_agreement:.2%} is asked "
                f"for; the largest difference of a logit is {report.largest_difference:.3g}. "
                f"Nothing is written"
            )
        _publish(file, out, report)
    return report


def _free_place(run: Run, exporter: Exporter, out: str | Path | None) -> Path:
    """Return the path of the file to write; neither it nor its report may exist.

    Raises:
        RunError: If one of them exists, or the path can't be written.
    """
    if out is None:
        path = run.path if run.path.name.strip(".") else run.path.resolve()
        name = path.stem if is_file(path) else path.name
        out = path.parent / f"{name}{exporter.suffix}"
    out = expand(out)
    if not out.name.endswith(exporter.suffix) or out.name == exporter.suffix:
        raise RunError(f"{out}: files of this format are named NAME{exporter.suffix}")
    try:
        if not out.parent.is_dir():
            raise RunError(f"can't write {out}: there is no folder {out.parent}")
        for path in (out, _report_file(out)):
            if os.path.lexists(path):
                raise RunError(f"{path} exists already; zoo never overwrites an exported model")
    except OSError as error:
        raise RunError(f"can't write {out}: {error.strerror}") from error
    return out


def _report_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """Create a temporary folder beside `out`; it is removed on exit."""
    try:
        folder = tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise RunError(f"can't write {out}: {error.strerror}") from error
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(file: Path, out: Path, report: ExportReport) -> None:
    """Move the file and its report to their final paths, both or neither."""
    try:
        with replacing(_report_file(out)) as beside_report, replacing(out) as beside:
            text = json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"
            beside_report.write_text(text, encoding="utf-8")
            file.replace(beside)
    except OSError as error:
        raise RunError(f"can't write {out}: {error.strerror}") from error
