"""`zoo weights`: list, where, add, remove, verify, fetch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, least_width, number, plain_console, print_facts, print_table
from zoo.cli.words import echo, echo_json, human_size, with_flags
from zoo.io.text import count

if TYPE_CHECKING:
    from zoo.backbone import Backbone
    from zoo.weights.place import Place


@click.group("weights", short_help="Pretrained weights: list, add, verify, fetch, where.")
def command() -> None:
    """Manage the pretrained weights of backbones on this machine.

    `--weights pretrained` uses the first source that has them: a file added with `zoo weights add`,
    a source declared by a plugin (a mirror, a shared folder, a package), the mirror named by the
    environment variable ZOO_WEIGHTS_MIRROR, or the backbone's own.
    """


@command.command("list", short_help="List the weights on this machine.")
@click.argument("pattern", default="*")
@format_option("table", "json")
def list_(pattern: str, form: str) -> None:
    """List the weights files on this machine of the backbones whose name matches PATTERN.

    PATTERN is part of a name, or has * and ?, as in `zoo backbones`. The network is not used.
    """
    from zoo import weights
    from zoo.weights.added import ADDED

    backbones = _matching(pattern)
    rows = [(b.name, file, p.by, p.kind) for b, p, file in _on_this_machine(backbones)]
    if pattern == "*":
        names = {b.name for b in backbones}
        rows += [
            (name, file, f"{ADDED}; not among the backbones that plugins list", "added")
            for name, file in weights.added().items()
            if name not in names
        ]
    if form == "json":
        listed = [
            {"name": name, "bytes": _size(file), "file": str(file), "by": by}
            for name, file, by, _ in rows
        ]
        echo_json(listed)
        return
    _print_files(
        [
            (name, human_size(_size(file)), f"{file}{'' if kind == 'own' else f'  ({by})'}")
            for name, file, by, kind in rows
        ]
    )
    # Two backbones may share a file.
    sizes = {os.path.realpath(file): _size(file) for _, file, *_ in rows}
    echo(f"{count(len(sizes), 'file')}, {human_size(sum(sizes.values()))} in all", err=True)


@command.command("where", short_help="Show every source that would be tried, in order.")
@click.argument("name")
def where(name: str) -> None:
    """Show every source that would be tried for the pretrained weights of backbone NAME, in order.

    An arrow marks the source that would be used; if it needs a download and can't be reached, the
    next one would be. The network is not used.
    """
    from zoo import plugins
    from zoo.weights.added import added_path
    from zoo.weights.place import find_places
    from zoo.weights.retrieval import looked_in

    backbone = plugins.get(name)
    found, notes = find_places(backbone)
    _warn(notes)
    echo(f"{backbone.name}: {count(len(found), 'source')}")
    first = next((p for p in found if p.file is not None or p.remote), None)
    for n, place in enumerate(found, 1):
        own = place.kind == "own"
        here = f"no, not at {looked_in(place.weights, own=own)}"
        if place.file is not None:
            here = f"yes, {place.file} ({human_size(_size(place.file))})"
        echo(f"{'->' if place is first else '  '} {n}  {place.weights.place}")
        print_facts(
            [
                ("      source", place.by),
                ("      on this machine", here),
                ("      sha256", place.weights.sha256 or "none declared"),
                ("      licence", place.weights.license or "not stated"),
            ]
        )
    if not any(place.kind == "added" for place in found):
        echo(
            f"nothing was added with `zoo weights add`; it would be {added_path(backbone.name)}",
            err=True,
        )


@command.command("add", short_help="Add a file as a backbone's pretrained weights.")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def add(name: str, file: Path) -> None:
    """Make FILE (.safetensors or .pth) the pretrained weights of backbone NAME on this machine.

    FILE must fit the backbone, including its original head, which is checked. A copy is saved as
    .safetensors in zoo's folder ($ZOO_HOME, by default ~/.cache/zoo), and from then on takes
    precedence over all other sources.
    """
    from zoo import plugins, weights
    from zoo.io.files import expand

    backbone = plugins.get(name)
    done = weights.add(backbone, expand(file))
    _warn(done.notes)
    echo(f"{backbone.name}  {human_size(_size(done.path))}  {done.path}")


@command.command("remove", short_help="Remove an added file.")
@click.argument("name")
def remove(name: str) -> None:
    """Delete the copy that `zoo weights add` saved for backbone NAME."""
    from zoo import plugins, weights

    full_name = name if name in weights.added() else plugins.get(name).name
    echo(f"deleted {weights.remove(full_name)}")


@command.command("verify", short_help="Check the SHA-256 of every weights file on this machine.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def verify(names: tuple[str, ...]) -> None:
    """Check the SHA-256 of the weights files on this machine, by default of all backbones.

    The exit code is 2 if any is damaged.
    """
    from zoo import plugins
    from zoo.errors import WeightsError
    from zoo.weights.verification import verify_place

    backbones = [plugins.get(name) for name in names] if names else _matching("*")
    checked = damaged = 0
    for backbone, place, file in _on_this_machine(backbones):
        verdict = verify_place(backbone, place)
        echo(f"{verdict.state}: {backbone.name}  {file}  ({verdict.detail})")
        checked += 1
        damaged += verdict.state == "damaged"
    if not checked:
        echo("no weights files on this machine", err=True)
    if damaged:
        raise WeightsError(
            f"{damaged} of {count(checked, 'file')} damaged; delete what is, then "
            f"`zoo weights fetch NAME` gets it again (`zoo weights add NAME FILE` if it was added)"
        )


@command.command("fetch", short_help="Download weights ahead of a job without a network.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def fetch(names: tuple[str, ...]) -> None:
    """Download the pretrained weights of each backbone NAME, and check that they load.

    They are saved in the usual caches, where `zoo finetune` finds them without a network. If some
    can't be downloaded, the others still are; the exit code is then 2.
    """
    from zoo import plugins, weights
    from zoo.errors import WeightsError, ZooError

    failed: list[str] = []
    for name in names:
        try:
            backbone = plugins.get(name)
            loaded = weights.load(backbone, "pretrained")
        except ZooError as error:
            echo(f"! {name}: {with_flags(str(error))}", err=True)
            failed.append(name)
            continue
        _warn(loaded.notes)
        size = "" if loaded.file is None else f"  {human_size(_size(loaded.file))}"
        place = loaded.file or f"{loaded.source} (its plugin knows where the file is)"
        echo(f"{backbone.name}{size}  {place}")
    if failed:
        raise WeightsError(f"{len(failed)} of {len(names)} not fetched: {', '.join(failed)}")


def _print_files(rows: list[tuple[str, str, str]]) -> None:
    """Print name, size and file of each; on a narrow terminal, each file in a line of its own."""
    columns = [label(), number(), label()]
    if least_width(columns, rows) <= plain_console().width:
        print_table(columns, rows)
        return
    # Paths are not wrapped, so that they can be copied.
    for name, size, file in rows:
        print_table(columns[:2], [(name, size)])
        print_table([label()], [(f"  {file}",)])


def _matching(pattern: str) -> list[Backbone]:
    """Return the matching backbones, and warn about plugins that were left out.

    Default weights are those of the bare name, all others of NAME.TAG.
    """
    from zoo import plugins

    found = plugins.backbones(pattern)
    default = {backbone.name: backbone.weights for backbone in found}
    found += [
        tagged
        for tagged in plugins.published(pattern)
        if tagged.name not in default
        and tagged.weights != default.get(tagged.name.rpartition(".")[0])
    ]
    _warn(
        f"plugin {p} was left out: {p.state}: {p.cause}"
        for p in plugins.load_all()
        if p.state not in ("ok", "disabled")
    )
    return found


def _on_this_machine(backbones: Iterable[Backbone]) -> list[tuple[Backbone, Place, Path]]:
    """Return the places of these backbones whose file is on this machine."""
    from zoo.weights.place import find_places

    found: list[tuple[Backbone, Place, Path]] = []
    notes: list[str] = []
    for backbone in backbones:
        places, said = find_places(backbone)
        found += [(backbone, place, place.file) for place in places if place.file is not None]
        notes += said
    _warn(notes)
    return found


def _warn(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        echo(f"! {note}", err=True)


def _size(file: Path) -> int:
    from zoo.weights.shards import parts

    return sum(part.stat().st_size for part in parts(file))
