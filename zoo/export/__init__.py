"""Export a run to a file for another runtime, and verify that its predictions match the run's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from zoo import plugins
from zoo.engines.runtime import calling, load_exported
from zoo.errors import PluginError, RunError
from zoo.export.card import card_of, with_export
from zoo.export.model import exportable, metadata_of
from zoo.export.options import ExportOptions
from zoo.export.proof import ExportReport, calibration_images, compare, images_for
from zoo.export.script import docker_file, script_file, scripts
from zoo.exporter import Exporter
from zoo.io.files import expand, is_file, replacing
from zoo.io.text import printable
from zoo.runs.folder import check_space, folder_beside
from zoo.runs.read import Run
from zoo.runs.write import MODEL, RECIPE

__all__ = ["MAX_LOSS", "MIN_AGREEMENT", "ExportOptions", "ExportReport", "export"]

#: Default minimum fraction of images for which file and run must predict the same labels.
MIN_AGREEMENT = 0.995

#: Maximum loss of accuracy by 8-bit quantisation: one point.
MAX_LOSS = 0.01


def export(
    run: Run,
    to: str,
    out: str | Path | None = None,
    *,
    options: ExportOptions | None = None,
    data: str | Path | None = None,
    allow_network: bool = False,
    min_agreement: float | None = None,
    allow_difference: bool = False,
) -> ExportReport:
    """Export a run to another format, after verifying that predictions match the run's.

    The file maps images (N, C, H, W) uint8, usually RGB, resized and cropped as in validation, to
    logits (N, classes) float32, for any N, and includes the normalisation and the division of
    logits by the run's temperature, so that their softmax or sigmoid is the run's probabilities.
    Before it is moved to its place, it is loaded with the format's own runtime and compared with
    the run on the run's validation images. The comparison is written beside it as JSON and added
    to the run's model card; if the format has one, a script that predicts without zoo is written
    beside it as `FILE.predict.py`, and `FILE.Dockerfile` to run that.

    Args:
        run: The run.
        to: Name of a format that a plugin declares, such as `onnx`.
        out: The file to write. Default: the run folder's name with the format's suffix, beside the
            run folder.
        options: What is asked of the file: float16, 8 bits, resizing, probabilities, opset.
        data: A labelled folder or table, as in `run.evaluate`. Default: the data that the run was
            trained on, or random images if that is no longer available.
        allow_network: As in `run.evaluate`, for `data`.
        min_agreement: Minimum fraction of images, 0..1, with the same predicted labels as the run.
            Default: `MIN_AGREEMENT`; with `int8`, the accuracy on labelled images may be lower
            than the run's by `MAX_LOSS` instead.
        allow_difference: Write the file if it differs by more; the report says so.

    Returns:
        The comparison.

    Raises:
        PluginError: If there is no such format, it can't be written here, a library for it is not
            installed, or the exporter fails, for example because the format does not support an
            operator of the model.
        OptionError: If the format does not support an option.
        RunError: If the file can't be written or exists, or too few labels agree. No file is left
            behind.
        DataError: If `data` can't be used, or there are no train images to calibrate `int8` on.
    """
    options = options or ExportOptions()
    exporter = plugins.declared_as("zoo_exporters", to)
    if not isinstance(exporter, Exporter):
        raise PluginError(f"exporter {to} is {exporter!r}, not a zoo.Exporter")
    if exporter.unavailable is not None:
        raise PluginError(f"format {to} can't be written: {exporter.unavailable}")
    options.check(to, exporter)
    out = _free_place(run, exporter, out)
    data = None if data is None else expand(data)
    given = options.of_format()
    if options.int8:
        given["int8"] = calibration_images(
            run, data, with_resize=options.with_resize, allow_network=allow_network
        )
    model = exportable(run, options)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    check_space(out, str(out), size + 2**20)
    with folder_beside(out) as folder:
        file = folder / out.name
        with calling(to, exporter):
            about = exporter.write(
                model, model.example(), file, metadata_of(run, options, exporter), **given
            )
        compute = load_exported(to, exporter, file, len(run.class_names))
        written = sum(each.stat().st_size for each in exporter.files(file))
        images = images_for(run, data, with_resize=options.with_resize, allow_network=allow_network)
        report = compare(run, compute, images, options, exported=(to, str(out), written))
        problem = _problem(report, options, min_agreement)
        if problem is not None and not allow_difference:
            raise RunError(
                f"{problem}; the largest difference of an output is "
                f"{report.largest_difference:.3g}. Nothing is written",
                hint="`allow_difference` writes it nevertheless",
            )
        card = card_of(run)
        notes = [text for text in (about, problem) if text is not None]
        if card is None:
            notes.append("no model card lists this export: the run has none that can be written")
        report = replace(report, notes=(*report.notes, *notes))
        texts = scripts(run, exporter, out, options)
        moved = dict(zip(exporter.files(out), exporter.files(file), strict=True))
        _publish(moved, texts, out, report, card)
    return report


def _problem(
    report: ExportReport, options: ExportOptions, min_agreement: float | None
) -> str | None:
    """Return by what a file differs too much from its run; None if it does not."""
    if (
        options.int8
        and min_agreement is None
        and report.accuracy is not None
        and report.run_accuracy is not None
    ):
        # Rounded, because differences of floats may exceed a limit that they reach.
        if round(report.run_accuracy - report.accuracy, 9) <= MAX_LOSS:
            return None
        return (
            f"{report.format} loses accuracy: {report.accuracy:.2%} on {report.images} images "
            f"({report.source}), where the run has {report.run_accuracy:.2%}; at most "
            f"{100 * MAX_LOSS:g} point less is accepted"
        )
    least = MIN_AGREEMENT if min_agreement is None else min_agreement
    if report.agreement >= least:
        return None
    return (
        f"{report.format} gives other labels than the run: they agree on {report.agreement:.2%} of "
        f"{report.images} images ({report.source}), at least {least:.2%} is asked for"
    )


def _free_place(run: Run, exporter: Exporter, out: str | Path | None) -> Path:
    """Return the path of the file to write; neither it nor its report may exist.

    Raises:
        RunError: If one of them exists, or the path can't be written.
    """
    if out is None:
        whole = run.path.name == MODEL and is_file(run.path.with_name(RECIPE))
        path = run.path.parent if whole else run.path
        path = path if path.name.strip(".") else path.resolve()
        name = path.stem if is_file(path) else path.name
        out = path.parent / f"{name}{exporter.suffix}"
    out = expand(out)
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        # Neither the runtimes nor the report beside the file can name it.
        raise RunError(
            f"can't write {printable(out)}: the path is not valid UTF-8",
            hint="name another file by `out`",
        ) from error
    if not out.name.endswith(exporter.suffix) or out.name == exporter.suffix:
        raise RunError(f"{out}: files of this format are named NAME{exporter.suffix}")
    try:
        if not out.parent.is_dir():
            raise RunError(f"can't write {out}: there is no folder {out.parent}")
        beside = [_report_file(out)]
        if exporter.script is not None:
            beside += [script_file(out), docker_file(out)]
        for path in (*exporter.files(out), *beside):
            if os.path.lexists(path):
                raise RunError(f"{path} exists already; zoo never overwrites an exported model")
    except OSError as error:
        raise RunError(f"can't write {out}: {error.strerror}") from error
    return out


def _report_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _publish(
    moved: Mapping[Path, Path],
    texts: Mapping[Path, str],
    out: Path,
    report: ExportReport,
    card: tuple[Path, str] | None,
) -> None:
    """Move files to their final paths, and write texts and the report, all or nothing.

    Raises:
        RunError: If a file can't be written; then none is left behind.
    """
    text = json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"
    texts = {**texts, _report_file(out): text}
    try:
        with ExitStack() as stack:
            # Files are renamed in reverse order: the card, which existed before, at the end.
            if card is not None:
                path, before = card
                beside = stack.enter_context(replacing(path))
                beside.write_text(with_export(before, report), encoding="utf-8")
            for path, source in moved.items():
                source.replace(stack.enter_context(replacing(path)))
            for path, content in texts.items():
                stack.enter_context(replacing(path)).write_text(content, encoding="utf-8")
    except OSError as error:
        for path in (*moved, *texts):
            path.unlink(missing_ok=True)
        raise RunError(f"can't write {out}: {error.strerror}") from error
