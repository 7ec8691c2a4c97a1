"""`zoo data`: check."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import number, print_facts, print_table, text
from zoo.cli.words import count, echo, echo_json, with_flags
from zoo.io.files import expand

if TYPE_CHECKING:
    from zoo.data.check import Report
    from zoo.data.check.fix import Fixed

#: Maximum number of classes in the table, and of examples of a finding; the rest is counted.
MOST_CLASSES = 30
MOST_EXAMPLES = 5

#: Colour of each severity on a terminal.
COLOURS = {"error": "red", "warning": "yellow", "note": None}


@click.group("data", short_help="Check a data folder, make a clean copy.")
def command() -> None:
    """Find problems of a data folder before training on it."""


@command.command("check", short_help="Find duplicates, leakage, label conflicts, unreadable files.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--fix-to",
    type=click.Path(path_type=Path),
    metavar="NEW_DIR",
    help="Write a clean copy there, with left-out.json on what was left out and why.",
)
@format_option("text", "json")
@click.option("--strict", is_flag=True, help="Exit code 1 for warnings too.")
@click.option("--follow-links", is_flag=True, help="Follow links in DIR that lead out of it too.")
def check(folder: Path, fix_to: Path | None, form: str, strict: bool, follow_links: bool) -> None:
    """Check DIR, a folder as for `zoo finetune --data`, for problems that impair results.

    It finds images that are in both train and val, or look the same there (leakage); the same image
    in several classes; unreadable images; images whose format does not match their extension; links
    that lead out of DIR; duplicates; classes that are missing, empty, rare, or similar in name;
    tiny or huge images; unused files. Hashes of images are sorted, not compared pairwise: among
    hundreds of thousands of images, a few pairs that barely look the same may be missed.

    \b
    Exit code 0  nothing serious
              1  an error: leakage, an image in several classes, images that
                 training leaves out, classes that can't be trained
              2  DIR can't be used, or NEW_DIR can't be written

    Results for a file are cached until it changes. DIR itself is never changed. NEW_DIR lacks
    unreadable images, links that lead out of DIR unless they are followed, all copies of an image
    in several classes, all duplicates within a class but one, and train images that are in val too,
    or look the same there. In NEW_DIR, images with a wrong extension get the right one. The exit
    code refers to DIR.

    \b
      zoo data check photos
      zoo data check photos --format json > report.json
      zoo data check photos --fix-to clean
    """
    from zoo.data.check.checking import checked
    from zoo.data.check.fix import check_target, fix

    folder = expand(folder)
    if fix_to is not None:
        check_target(folder, fix_to)
    with _Bar() as bar:
        found = checked(folder, follow_links=follow_links, progress=bar)
    fixed = None if fix_to is None else fix(found, fix_to)
    report = _with_flags(found.report)
    if report.not_remembered:
        echo(f"! not remembered for the next time: {report.not_remembered}", err=True)
    if form == "json":
        whole = {**asdict(report), "images": report.images, "serious": report.serious}
        if fixed is not None:
            whole["fixed"] = {**asdict(fixed), "path": str(fixed.path)}
        echo_json(whole)
    else:
        _print(report)
        if fixed is not None:
            _print_fixed(fixed)
    if report.serious or (strict and any(f.severity == "warning" for f in report.findings)):
        raise SystemExit(1)


def _with_flags(report: Report) -> Report:
    findings = (replace(f, advice=with_flags(f.advice)) for f in report.findings)
    return replace(report, findings=tuple(findings))


class _Bar:
    """A progress bar on a terminal's stderr; nothing elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("images", total=None)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)


def _print(report: Report) -> None:
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
    echo(f"\n{', '.join(numbers)}; all paths: --format json")


def _print_classes(report: Report) -> None:
    names = sorted({name for of_split in report.counts.values() for name in of_split})
    splits = report.counts.values()
    rows = [(name, *(str(s.get(name, 0)) for s in splits)) for name in names[:MOST_CLASSES]]
    if len(names) > MOST_CLASSES:
        rest = names[MOST_CLASSES:]
        more = (str(sum(s.get(name, 0) for name in rest)) for s in splits)
        rows.append((f"and {len(rest)} classes more", *more))
    rows.append(("all images", *map(str, report.totals.values())))
    print_table([text("class"), *(number(split or "images") for split in report.counts)], rows)


def _print_fixed(fixed: Fixed) -> None:
    from zoo.data.check.listing import LEFT_OUT

    kinds: dict[str, int] = {}
    for each in fixed.left_out:
        kinds[each.kind] = kinds.get(each.kind, 0) + 1
    listed = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing"
    facts = [
        ("clean copy", f"{fixed.path}, {count(fixed.files, 'file')}"),
        ("left out", f"{listed}; which and why: {fixed.path / LEFT_OUT}"),
    ]
    if fixed.renamed:
        images = count(len(fixed.renamed), "image")
        facts.append(("renamed", f"{images} to the extension of the content"))
    echo()
    print_facts(facts)
