"""`zoo pull`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zoo.cli.start import starting
from zoo.cli.tables import print_facts
from zoo.cli.words import echo, human_size
from zoo.io.text import count, listed


@click.command("pull", short_help="Download a run from the Hugging Face Hub.")
@click.argument("repository", metavar="OWNER/NAME[@REVISION]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write, which must not exist.  [default: runs/NAME]",
)
def command(repository: str, out: Path | None) -> None:
    """Download the run in OWNER/NAME, at a branch, tag or commit, into a new run folder.

    Only files of a run are downloaded, and none that could run code. They are verified as by zoo
    verify before the folder is put in its place.

    \b
      zoo pull me/bugs
      zoo pull me/bugs@v1 --out bugs
    """
    with starting(allocator_tuning=False):
        from zoo.hub.pull import pull

    if not sys.stderr.isatty():
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    done = pull(repository, out)
    for name, why in done.unchecked.items():
        echo(f"! {name} is not checked: {why}", err=True)
    facts = [
        ("run", str(done.path)),
        ("commit", done.commit),
        ("files", f"{count(len(done.files), 'file')}, {human_size(sum(done.files.values()))}"),
    ]
    if done.left_out:
        facts.append(("left out", listed(done.left_out)))
    print_facts(facts)
