"""`zoo cache`: list, clear."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, number, print_facts, print_table
from zoo.cli.words import echo, echo_json, human_size
from zoo.io.text import count

if TYPE_CHECKING:
    from zoo.cache import StoredKind

#: Columns with minimum widths, because rows are printed store by store.
_COLUMNS = (
    label("kind", least=11),
    number("records", least=9),
    number("size", least=7),
    label("last used", least=16),
)

KINDS = ("features", "activations", "images", "examined", "engines", "remote")


@click.group("cache", short_help="List or clear cached images, features, activations and networks.")
def command() -> None:
    """List and delete what zoo has computed for images and cached.

    Deleting it costs only the time to compute it again. The folder is $ZOO_HOME/cache, by default
    ~/.cache/zoo/cache; networks that were converted for another engine of zoo predict, and how fast
    engines were, are in $ZOO_HOME/engines, and what was read from a network in $ZOO_HOME/remote.
    """


@command.command("list", short_help="List what is cached, and how much space it takes.")
@format_option("text", "json")
def list_(form: str) -> None:
    """List what is cached: its kind, size, time of last use, and what it depends on."""
    from zoo import cache

    stores = cache.stored()[::-1]
    if form == "json":
        listed = [
            {
                "kind": store.kind,
                "about": store.about,
                "records": store.records,
                "bytes": store.bytes,
                "used": store.used.isoformat(timespec="seconds"),
                "path": str(store.path),
            }
            for store in stores
        ]
        echo_json(listed)
        return
    for store in stores:
        used = store.used.astimezone().strftime("%Y-%m-%d %H:%M")
        row = (store.kind, str(store.records), human_size(store.bytes), used)
        print_table(_COLUMNS, [row], header=store is stores[0])
        about = ", ".join(f"{name} {_short(v)}" for name, v in store.about.items())
        if about:
            print_facts([("  ", about)])
    total = human_size(sum(store.bytes for store in stores))
    echo(f"{count(len(stores), 'store')}, {total} in all, in {cache.root().parent}", err=True)


@command.command("clear", short_help="Clear the cache, or one kind of it.")
@click.argument("kind", required=False, type=click.Choice(KINDS))
@click.option(
    "--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Only if unused for DAYS."
)
def clear(kind: StoredKind | None, older_than: float | None) -> None:
    """Delete what is cached, all of it or one KIND.

    Stores that another process is using are not deleted, but listed.
    """
    from zoo import cache

    cleared = cache.clear(kind, older_than_days=older_than)
    for store in cleared.kept:
        echo(f"! kept {store.path}: another process uses it, or it is protected", err=True)
    echo(f"deleted {count(cleared.stores, 'store')}, freed {human_size(cleared.bytes)}")


def _short(value: object) -> str:
    """Shorten a long value, such as a SHA-256, which --format json prints in full."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:12]}..."
