"""`zoo compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import allocator_option, device_option, format_option, network_option
from zoo.cli.progress import ProgressListener
from zoo.cli.start import starting
from zoo.cli.tables import label, number, print_facts, print_fitting, print_table, text
from zoo.cli.words import echo, echo_csv, echo_json, human_size, with_flags
from zoo.io.text import clip, count

if TYPE_CHECKING:
    from zoo.pipeline.compare import Comparison, RunComparison, RunScore
    from zoo.planning.candidates import Candidate
    from zoo.runs.evaluate import Split

#: Maximum number of differing images in the table.
MOST_SHOWN = 20

#: Length to which a licence, which may be a URL, is shortened in the table.
_LICENCE = 20

#: Lists of well-known backbones, as in zoo/pipeline/presets.toml.
_PRESETS = ("fast", "balanced", "best")


@click.command("compare", short_help="Compare backbones on your images, or two runs.")
@click.argument("names", nargs=-1, metavar="[BACKBONE...|RUN RUN]")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled folder or table. Backbones need it.  [default for runs: the data that the first "
    "one was trained on]",
)
@click.option(
    "--preset",
    "presets",
    type=click.Choice(_PRESETS),
    multiple=True,
    help="Also compare a list of well-known backbones. May be repeated.",
)
@click.option("--here", is_flag=True, help="Also compare all whose weights are on this machine.")
@click.option(
    "--image-size",
    type=click.IntRange(min=8),
    help="Backbones: side of the input in pixels.  [default: each backbone's own]",
)
@click.option(
    "--max-images",
    type=click.IntRange(min=10),
    default=2000,
    show_default=True,
    help="Backbones: maximum number of images (or five of each class, if these are more).",
)
@click.option(
    "--group-by",
    metavar="PATTERN|COLUMN|folder",
    help="Images of one group (a patient, a film) are held out together and count as one in "
    "intervals and tests, as in zoo finetune. For runs, it is for other --data than theirs.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="Backbones: also plot accuracy against speed.",
)
@click.option(
    "--split",
    type=click.Choice(["val", "train", "test", "all"]),
    help="Runs: which images, as in zoo evaluate of the first run.  [default: val]",
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="Backbones: what computes features, as in zoo finetune.",
)
@network_option
@format_option("table", "json", "csv")
@device_option
@allocator_option
def command(
    names: tuple[str, ...],
    data: Path | None,
    presets: tuple[str, ...],
    here: bool,
    image_size: int | None,
    max_images: int,
    group_by: str | None,
    plot: Path | None,
    split: Split | None,
    engine: str,
    allow_network: bool,
    form: str,
    device: str,
    allocator_tuning: bool,
) -> None:
    """Compare backbones on labelled images before training, or two runs.

    Names that are run folders, or files model.safetensors, that exist are runs: give exactly two.
    All other names are backbones, or patterns of names such as 'timm/*resnet18*', and need --data.

    Backbones are compared by a linear probe on features of the train and val images (never test),
    cross-validated, with groups of images in one fold. Speed is that of the forward pass here, and
    memory what the network and a forward pass take. The exit code is 2 if none can be measured.

    Runs are compared on the same images, by the exact test of McNemar; images of a group count as
    one. The table lists the first 20 images that they predict differently; other formats list all.

    \b
      zoo compare --data photos --here
      zoo compare --data photos resnet18 'timm/*efficientnet_b0*' --plot compared.svg
      zoo compare --data photos --preset fast --format json
      zoo compare --data scans --here --group-by '(patient[0-9]+)_'
      zoo compare runs/first runs/second
      zoo compare runs/first runs/second --data photos --split test --format csv
    """
    with starting(allocator_tuning=allocator_tuning):
        from zoo.pipeline.compare import RunComparison, compare, runs_among

    given = {"--image-size": image_size, "--plot": plot, "--preset": presets, "--here": here}
    given["--engine"] = engine != "auto"
    if runs_among(names):
        if wrong := [flag for flag, value in given.items() if value]:
            raise click.UsageError(
                f"{', '.join(wrong)} can't be used to compare runs, only backbones"
            )
    elif split is not None:
        raise click.UsageError(
            "--split can only be used with two runs; backbones are compared on train and val"
        )
    with ProgressListener() as listen:
        result = compare(
            *names,
            data=data,
            presets=(*presets, *(["here"] if here else [])),
            image_size=image_size,
            max_images=max_images,
            group_by=group_by,
            split=split or "val",
            device=device,
            engine=engine,
            allow_network=allow_network,
            listen=listen,
        )
    if isinstance(result, RunComparison):
        _show_runs(result, form)
        return
    if plot is not None:
        from zoo.pipeline.plot import plot_comparison

        plot_comparison(result, plot)
    _show_backbones(result, form)
    if result.best is None:
        echo("! no backbone could be measured", err=True)
        raise SystemExit(2)


def _show_backbones(result: Comparison, form: str) -> None:
    rows = [_about(each) for each in result.candidates]
    if form == "json":
        facts = ("data", "images", "classes", "metric", "device", "recommendation")
        best = None if result.best is None else result.best.name
        echo_json({**{k: getattr(result, k) for k in facts}, "best": best, "backbones": rows})
    elif form == "csv":
        echo_csv(rows, list(rows[0]))
    else:
        _print_backbones(result)


def _about(candidate: Candidate) -> dict[str, Any]:
    about = {k: v for k, v in vars(candidate).items() if k not in ("logits", "memory")}
    return {**about, "memory_bytes": candidate.memory}


def _print_backbones(result: Comparison) -> None:
    from zoo.tasks import metric_label

    columns = [
        label("backbone"),
        number("probe"),
        label("95 %"),
        number("images/s"),
        number("memory"),
        number("params"),
        label("licence"),
        # Of the difference from the best.
        number("p"),
        number("features"),
    ]
    print_fitting(columns, [_row(each) for each in result.candidates])
    for each in result.candidates:
        if each.reason is not None:
            # The first line: the others are what to do about it in a run.
            reason = each.reason.partition("\n")[0]
            echo(f"- {each.name} was not measured: {with_flags(reason)}")
    echo()
    print_facts(
        [
            (
                "images",
                f"{result.images:,} of {result.data}, {count(result.classes, 'class', 'classes')}",
            ),
            (
                "measured",
                f"{metric_label(result.metric)} of a cross-validated probe, on {result.device}",
            ),
            ("take", result.recommendation),
        ]
    )


def _row(candidate: Candidate) -> tuple[str, ...]:
    licence = clip(candidate.license or "not stated", _LICENCE)
    params = "" if candidate.parameters is None else f"{candidate.parameters / 1e6:,.1f}M"
    if candidate.score is None:
        return (candidate.name, "-", "-", "-", "-", params, licence, "-", "-")
    low, high = 100 * (candidate.low or 0), 100 * (candidate.high or 0)
    return (
        candidate.name,
        f"{candidate.score:.1%}",
        f"{low:.1f}-{high:.1f}",
        f"{candidate.images_per_second:,.0f}",
        "-" if candidate.memory is None else human_size(candidate.memory),
        params,
        licence,
        "" if candidate.p is None else f"{candidate.p:.2g}",
        str(candidate.features),
    )


def _show_runs(result: RunComparison, form: str) -> None:
    from zoo.pipeline.compare import Difference

    for warning in result.warnings:
        echo(f"! {warning}", err=True)
    if form == "json":
        echo_json(result)
    elif form == "csv":
        echo_csv(map(vars, result.differing), list(Difference.__annotations__))
    else:
        _print_runs(result)


def _print_runs(result: RunComparison) -> None:
    print_facts(
        [
            ("images", f"{result.images} of {result.data}"),
            ("first", _scored(result.first, result.images)),
            ("second", _scored(result.second, result.images)),
            ("only first", f"{count(result.only_first, 'image')} right by the first alone"),
            ("only second", f"{count(result.only_second, 'image')} right by the second alone"),
            ("verdict", result.verdict),
        ]
    )
    if not result.differing:
        return
    echo()
    shown = result.differing[:MOST_SHOWN]
    print_table(
        [text("image"), text("true"), text("first"), text("second"), label("right")],
        [
            (
                each.name,
                " + ".join(each.labels),
                " + ".join(each.first),
                " + ".join(each.second),
                "first" if each.first_correct else "second" if each.second_correct else "neither",
            )
            for each in shown
        ],
    )
    if len(shown) < len(result.differing):
        echo(f"{len(shown)} of {count(len(result.differing), 'image')} (all: --format csv)")


def _scored(score: RunScore, images: int) -> str:
    interval = f"{100 * score.low:.1f}-{100 * score.high:.1f} %"
    return (
        f"{score.accuracy:.2%} ({score.correct} of {images}; 95 %: {interval}), {score.path}, "
        f"{score.backbone}"
    )
