"""`zoo data`: check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import device_option, format_option
from zoo.cli.progress import ProgressListener
from zoo.cli.tables import label, number, print_facts, print_table, text
from zoo.cli.words import echo, echo_json, with_flags
from zoo.events import Progress
from zoo.io.files import expand
from zoo.io.text import count

if TYPE_CHECKING:
    from zoo.data.check import Report
    from zoo.data.check.dataset import Checked
    from zoo.data.check.fix import Fixed
    from zoo.features.data_check import FeatureReport
    from zoo.recipe import Recipe

#: Maximum number of classes in the table, and of examples of a finding; the rest is counted.
MOST_CLASSES = 30
MOST_EXAMPLES = 5

#: Maximum number of suspected labels that are printed.
MOST_SUSPECTS = 20

#: Colour of each severity on a terminal.
COLOURS = {"error": "red", "warning": "yellow", "note": None}


@click.group("data", short_help="Check a data folder, make a clean copy.")
def command() -> None:
    """Find problems of a data folder before training on it."""


@command.command("check", short_help="Find wrong labels, duplicates, leakage, unreadable files.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--fix-to",
    type=click.Path(path_type=Path),
    metavar="NEW",
    help="Write a clean copy there, and what was left out and why: of a folder NEW/left-out.json, "
    "of a table, for which NEW is a CSV file, NEW.left-out.json.",
)
@click.option(
    "--group-by",
    metavar="PATTERN|COLUMN|folder",
    help="How to find the groups of images, as in `zoo finetune --group-by`.",
)
@click.option(
    "--labels",
    is_flag=True,
    help="Find wrong labels, crops and mirrored copies by the features of a backbone.",
)
@click.option("--backbone", metavar="NAME", help="Backbone of --labels.  [default: finetune's]")
@device_option
@click.option(
    "--labels-to",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the suspected labels to a CSV table with a column to fill in: accept.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page with thumbnails of the images with suspected labels.",
)
@click.option(
    "--labels-from",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="With --fix-to: change the labels accepted in this table.",
)
@format_option("text", "json")
@click.option("--strict", is_flag=True, help="Exit code 1 for warnings too.")
@click.option("--follow-links", is_flag=True, help="Follow links in DIR that lead out of it too.")
@click.option(
    "--allow-network",
    is_flag=True,
    help="Also read images at addresses in a table, such as s3://bucket/a.jpg.",
)
def check(
    folder: Path,
    fix_to: Path | None,
    group_by: str | None,
    labels: bool,
    backbone: str | None,
    device: str,
    labels_to: Path | None,
    html: Path | None,
    labels_from: Path | None,
    form: str,
    strict: bool,
    follow_links: bool,
    allow_network: bool,
) -> None:
    """Check DIR, a folder as for `zoo finetune --data`, for problems that impair results.

    It finds images that are in both train and val or test, or look the same there (leakage); groups
    of images on both sides; the same image in several classes; unreadable images; images whose
    format does not match their extension; links that lead out of DIR; duplicates; classes that are
    missing, empty, rare, or similar in name; tiny or huge images; unused files. Hashes of images
    are sorted, not compared pairwise: among hundreds of thousands of images, a few pairs that
    barely look the same may be missed.

    Where images may have several labels, it also finds images without any, classes that always
    occur together, and classes that every image has.

    \b
    Exit code 0  nothing serious
              1  an error: leakage, an image in several classes, images that
                 training leaves out, classes that can't be trained
              2  DIR can't be used, or NEW can't be written

    Results for a file are cached until it changes. DIR itself is never changed. NEW lacks
    unreadable images, links that lead out of DIR unless they are followed, all copies of an image
    in several classes, all duplicates within a class but one, and train images that are in val or
    test too, or look the same there. Of test, only unreadable images and links are left out. In
    a new folder, images with a wrong extension get the right one; a new table has the rows of the
    images that are kept, which stay where they are. The exit code refers to DIR.

    With --labels, every image is passed through a pretrained backbone once, and a linear probe is
    cross-validated on its features. Labels that it contradicts are listed, the most suspicious
    first (confident learning, Northcutt et al., 2021), and crops and mirrored copies count as
    images that look the same. Where images may have several labels, each is judged by itself: to be
    added or removed. In the table of --labels-to, write yes, no, or another class (or several,
    separated by |) into the column accept; --labels-from then changes the labels of these images
    in NEW.

    \b
      zoo data check photos
      zoo data check photos --format json > report.json
      zoo data check photos --fix-to clean
      zoo data check photos --labels-to labels.csv --html labels.html
      zoo data check photos --labels-from labels.csv --fix-to clean
      zoo data check photos.csv --labels-from labels.csv --fix-to clean.csv
    """
    from zoo.data.check.dataset import checked, relabelled
    from zoo.data.check.fix import check_target, fix
    from zoo.data.check.label_table import read_label_table

    folder = expand(folder)
    if labels_from is not None and fix_to is None:
        raise click.UsageError("--labels-from changes labels in the copy that --fix-to NEW makes")
    labels = labels or labels_to is not None or html is not None
    if backbone is not None and not labels:
        raise click.UsageError("--backbone is that of --labels")
    if fix_to is not None:
        check_target(folder, fix_to)
    with ProgressListener() as listen:
        found = checked(
            folder,
            follow_links=follow_links,
            allow_network=allow_network,
            group_by=group_by,
            progress=lambda done, total: listen(Progress(what="images", done=done, total=total)),
        )
    by_features = None
    if labels:
        found, by_features = _by_features(found, backbone, device)
        _write(found, by_features, labels_to, html)
    fixed = None
    if fix_to is not None:
        changed = {} if labels_from is None else read_label_table(expand(labels_from), found)
        fixed = fix(relabelled(found, changed) if changed else found, fix_to, changed)
    report = _with_flags(found.report)
    if report.not_remembered:
        echo(f"! not remembered for the next time: {report.not_remembered}", err=True)
    if form == "json":
        whole = {**vars(report), "images": report.images, "serious": report.serious}
        parts = {"features": by_features, "fixed": fixed}
        echo_json(whole | {name: part for name, part in parts.items() if part is not None})
    else:
        _print(report, by_features, fixed)
    if report.serious or (strict and any(f.severity == "warning" for f in report.findings)):
        raise SystemExit(1)


def _with_flags(report: Report) -> Report:
    findings = (replace(f, advice=with_flags(f.advice)) for f in report.findings)
    return replace(report, findings=tuple(findings))


def _by_features(
    found: Checked, backbone: str | None, device: str
) -> tuple[Checked, FeatureReport]:
    from zoo.features.data_check import check_with_features
    from zoo.recipe import make_recipe

    given = {} if backbone is None else {"backbone": backbone}
    recipe: Recipe = make_recipe(None, device=device, **given)
    with ProgressListener() as listen:
        return check_with_features(found, recipe, listen=listen)


def _write(
    found: Checked, by_features: FeatureReport, labels_to: Path | None, html: Path | None
) -> None:
    """Write the table and the page of suspected labels."""
    from zoo.data.check.label_table import write_label_table
    from zoo.data.check.sheet import Card, write_sheet

    suspects = by_features.suspects
    if labels_to is not None:
        rows = [
            {
                **vars(each),
                "probability": f"{each.probability:.4f}",
                "score": f"{each.score:.4f}",
            }
            for each in suspects
        ]
        write_label_table(expand(labels_to), rows)
    if html is not None:
        samples = {image.path: image.sample for image in found.listing.images}
        cards = [
            Card(
                sample=samples[each.path],
                given=each.given,
                suggested=each.suggested,
                probability=each.probability,
                score=each.score,
                change="" if each.change == "replace" else f"{each.change} {each.label}",
            )
            for each in suspects
        ]
        write_sheet(
            expand(html),
            cards,
            title=f"Suspected labels of {found.report.root}",
            summary=f"{count(len(cards), 'label')} of {count(by_features.images, 'image')}, the "
            f"most suspicious first, by a probe on features of {by_features.backbone}.",
        )


def _print_suspects(found: FeatureReport) -> None:
    if found.suspects:
        rows = [
            (each.path, each.given, each.advised, f"{each.probability:.0%}", f"{each.score:.1%}")
            for each in found.suspects[:MOST_SUSPECTS]
        ]
        echo()
        print_table(
            [
                *(label("suspected label of"), text("given"), text("suggested")),
                *(number("suggested p"), number("given p")),
            ],
            rows,
        )
        if len(found.suspects) > MOST_SUSPECTS:
            echo(f"and {len(found.suspects) - MOST_SUSPECTS} more: --labels-to, --html or JSON")
    echo(
        f"\n{count(len(found.suspects), 'suspected label')} and "
        f"{count(len(found.copies), 'edited copy', 'edited copies')} by features of "
        f"{found.backbone} ({count(found.images, 'image')}, {found.seconds:.1f} s)"
    )


def _print(report: Report, by_features: FeatureReport | None, fixed: Fixed | None) -> None:
    from zoo.data.check.findings import examples

    _print_classes(report)
    width = max(map(len, COLOURS))
    for finding in report.findings:
        echo()
        print_facts(
            [(finding.severity, finding.text)], least=width, style=COLOURS[finding.severity]
        )
        below = [*(f"  {e}" for e in examples(finding, MOST_EXAMPLES)), f"> {finding.advice}"]
        print_facts([("", line) for line in below], least=width)
    numbers = [
        count(sum(f.severity == severity for f in report.findings), severity)
        for severity in ("error", "warning", "note")
    ]
    if by_features is not None:
        _print_suspects(by_features)
    echo(f"\n{', '.join(numbers)}; all paths: --format json")
    if by_features is None:
        echo("not checked: wrong labels, crops and mirrored copies; they are with --labels")
    if fixed is not None:
        _print_fixed(fixed)


def _print_classes(report: Report) -> None:
    names = sorted({name for of_split in report.counts.values() for name in of_split})
    splits = report.counts.values()
    rows = [(name, *(str(s.get(name, 0)) for s in splits)) for name in names[:MOST_CLASSES]]
    if len(names) > MOST_CLASSES:
        rest = names[MOST_CLASSES:]
        more = (str(sum(s.get(name, 0) for name in rest)) for s in splits)
        rows.append((f"and {len(rest)} classes more", *more))
    rows.append(("all images", *map(str, report.totals.values())))
    of_all = "train" if len(report.counts) > 1 else "images"
    print_table([text("class"), *(number(split or of_all) for split in report.counts)], rows)


def _print_fixed(fixed: Fixed) -> None:
    what = "row" if fixed.report.parent == fixed.path.parent else "file"
    kinds: dict[str, int] = {}
    for each in fixed.left_out:
        kinds[each.kind] = kinds.get(each.kind, 0) + 1
    listed = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing"
    facts = [
        ("clean copy", f"{fixed.path}, {count(fixed.files, what)}"),
        ("left out", f"{listed}; which and why: {fixed.report}"),
    ]
    if fixed.relabelled:
        facts.append(("relabelled", f"{count(len(fixed.relabelled), 'image')}, as accepted"))
    if fixed.renamed:
        images = count(len(fixed.renamed), "image")
        facts.append(("renamed", f"{images} to the extension of the content"))
    echo()
    print_facts(facts)
