"""`zoo push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.start import starting
from zoo.cli.tables import label, number, print_facts, print_table, text
from zoo.cli.words import echo, human_size, with_flags
from zoo.errors import HubError
from zoo.io.text import count

if TYPE_CHECKING:
    from zoo.hub.push import Existing, Upload


@click.command("push", short_help="Upload a run to the Hugging Face Hub.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--yes", is_flag=True, help="Upload without asking.")
@click.option("--dry-run", is_flag=True, help="Only show what would be uploaded.")
@click.option(
    "--public", is_flag=True, help="Let everybody read the repository.  [default: private]"
)
@click.option(
    "--license",
    "license_",
    metavar="LICENCE",
    help="Licence of the model for the uploaded card, such as apache-2.0.  [default: that of the "
    "pretrained weights, if known]",
)
@click.option(
    "--datasets",
    metavar="ID,...",
    default="",
    help="Datasets on the Hub that it was trained on, for the uploaded card.",
)
@click.option(
    "--with-predictions",
    is_flag=True,
    help="Also upload predictions.parquet, which has the names of your images.",
)
@click.option(
    "--with-report",
    is_flag=True,
    help="Also upload report.html, which shows your images with their names, and names paths.",
)
def command(
    run: Path,
    repository: str,
    yes: bool,
    dry_run: bool,
    public: bool,
    license_: str | None,
    datasets: str,
    with_predictions: bool,
    with_report: bool,
) -> None:
    """Upload RUN to the repository OWNER/NAME of the Hugging Face Hub, in one commit.

    First, the run is verified, and what would be uploaded is listed; on a terminal, zoo then asks.
    Paths of this machine are replaced by names in what is uploaded. RUN itself is not changed. The
    token is that of `hf auth login` or HF_TOKEN; HF_ENDPOINT names another Hub.

    \b
      zoo push runs/bugs me/bugs --dry-run
      zoo push runs/bugs me/bugs --license mit --public
    """
    with starting(allocator_tuning=False):
        from zoo.hub.client import client
        from zoo.hub.push import inspect, prepared, push

    if not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    names = tuple(name.strip() for name in datasets.split(",") if name.strip())
    with prepared(
        run,
        repository,
        public=public,
        license=license_,
        datasets=names,
        with_predictions=with_predictions,
        with_report=with_report,
    ) as upload:
        existing, unknown = None, ""
        try:
            client(writing=True)
        except HubError as error:
            if not dry_run:
                raise
            unknown = with_flags(str(error))
        else:
            existing = inspect(upload)
        _print(upload, existing, unknown)
        if dry_run:
            return
        if not yes:
            if not sys.stdin.isatty():
                raise HubError("nothing is uploaded without a confirmation", hint="add `yes`")
            if not click.confirm("Upload?", err=True):
                raise HubError("nothing is uploaded")
        done = push(upload)
    print_facts([("uploaded", done.url), ("commit", done.commit)], wrapped=False)


def _print(upload: Upload, existing: Existing | None, unknown: str) -> None:
    public = upload.public if existing is None else existing.public
    state = f"new, {'public' if public else 'private'}"
    if existing is not None:
        state = f"exists, {'public' if public else 'private'}"
        if upload.public and not public:
            state += "; its settings on the Hub can make it public"
    print_facts(
        [
            ("repository", f"{upload.endpoint}/{upload.repository}"),
            ("state", f"not known: {unknown}" if unknown else state),
            ("licence", upload.license or "not stated (--license states one)"),
            ("commit", upload.message),
        ]
    )
    echo()
    replaced = () if existing is None else existing.replaced
    print_table(
        [label("uploaded"), number("size"), text("")],
        [
            (name, human_size(size), "replaces that of the repository" if name in replaced else "")
            for name, size in upload.files.items()
        ],
    )
    echo(f"{count(len(upload.files), 'file')}, {human_size(sum(upload.files.values()))}")
    removed = () if existing is None else existing.removed
    if upload.left_out or removed:
        echo()
        print_table(
            [label("left out"), text("because")],
            [
                *((name, with_flags(why)) for name, why in upload.left_out.items()),
                *(
                    (name, "removed from the repository: it is of other weights")
                    for name in removed
                ),
            ],
        )
