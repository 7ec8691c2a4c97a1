"""`zoo predict`."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len

from zoo.cli.options import (
    allocator_option,
    answer_options,
    asked_of,
    device_option,
    format_option,
    tta_option,
)
from zoo.cli.progress import ImageProgress
from zoo.cli.start import starting
from zoo.cli.tables import label, number, plain_console, print_table, text
from zoo.cli.words import echo, echo_json_lines, echo_json_list, with_flags
from zoo.errors import DataError
from zoo.io.text import count, printable, spreadsheet_cell

if TYPE_CHECKING:
    from zoo.prediction.inputs import Item
    from zoo.prediction.rows import Layout
    from zoo.runs.read import Asked, Prediction, Run
    from zoo.runs.stream import Engine, Precision, Unreadable
    from zoo.runs.tta import Tta


@click.command("predict", short_help="Classify images with a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@format_option("table", "json", "jsonl", "csv")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write instead, which must not exist: FILE.jsonl, FILE.csv or FILE.parquet. With "
    "--on ray, a folder of Parquet files.",
)
@click.option("--resume", is_flag=True, help="Continue the file of a prediction that was ended.")
@click.option(
    "--on",
    type=click.Choice(["ray"]),
    help="Divide the images among the machines of a Ray cluster.  [default: this process]",
)
@click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="The cluster; auto: one that was started on this machine.  [default: $RAY_ADDRESS, else a "
    "cluster of this machine, which ends with the command]",
)
@click.option(
    "--top-k",
    type=click.IntRange(1),
    help="Classes to name per image, at most.  [default: 5; csv: the best; --out: all]",
)
@answer_options
@tta_option
@click.option(
    "--allow-network",
    is_flag=True,
    help="Download images that are given as http and https URLs.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Threads that decode images.  [default: all cores]"
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    help="Images per forward pass.  [default: 32 on a CPU, 128 on a GPU; fewer if they are large]",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="Mixed precision; auto: bf16 on GPUs that support it, else fp32.",
)
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="What computes: torch, or what exporters add, such as onnxruntime, in fp32 on the CPU. "
    "auto: the one that was faster here when 2,000 or more images were first given; else torch.",
)
@device_option
@allocator_option
def command(
    run: Path,
    images: tuple[str, ...],
    form: str,
    out: Path | None,
    resume: bool,
    on: str | None,
    ray_address: str | None,
    top_k: int | None,
    tta: Tta | None,
    allow_network: bool,
    workers: int | None,
    batch_size: int | None,
    precision: Precision,
    engine: str,
    device: str,
    allocator_tuning: bool,
    **asked: float | None,
) -> None:
    """Classify images with RUN, a run folder or its model.safetensors.

    IMAGES are files; folders, which are searched with their subfolders; patterns such as
    'photos/**/*.jpg'; tables with a column path (CSV, TSV, Parquet); @FILE, a list of images, one a
    line, or - for a list on stdin; URLs, with --allow-network; and what plugins' sources accept.

    Files that can't be read or have several images (an animation, pages) are named on stderr; files
    without an image extension are counted there by extension. In JSON and in files, each of these
    has an entry with an error instead of a label. In tables and CSV, control characters in names
    are shown as in Python (\\x1b), and in CSV, ' is put before names that a spreadsheet would take
    for a formula; JSON has the exact names. In CSV, several labels are in one cell, separated by |.

    Images unlike the training images are marked as unfamiliar; do not rely on their labels. With
    --min-confidence or --max-error, the label of an image may be unsure: in JSON, label is null and
    unsure is true; in CSV, the label is empty.

    --out writes a file with the probabilities of all classes. After Ctrl-C or a kill, the same
    command with --resume continues it. Without --out, Ctrl-C prints finished predictions, and with
    jsonl each line is printed as soon as its batch is done. The exit code is then 130.

    \b
      zoo predict runs/photos-resnet18 a.jpg holiday/
      zoo predict model.safetensors holiday/ --format csv > labels.csv
      zoo predict runs/photos-resnet18 @names.txt --out all.parquet
      zoo predict runs/photos-resnet18 photos.parquet --on ray --out all
    """
    _check_usage(form, out, resume, top_k)
    _check_cluster(on, ray_address, out, device)
    with starting(allocator_tuning=allocator_tuning):
        from zoo.machine.device import own_gpu
        from zoo.machine.processes import rank_and_count
        from zoo.prediction.inputs import find_inputs
        from zoo.prediction.output import check_format
        from zoo.prediction.rows import Layout
        from zoo.runs.read import load

    if out is not None and on is None:
        check_format(out)
    own_gpu()
    loaded = load(run, device="cpu" if on is not None else device)
    several, sets = not loaded.task.exclusive, asked["set_coverage"] is not None
    # A table shows the whole set, which may have more classes than are shown without it.
    every = out is not None or (sets and form == "table")
    wanted = asked_of(
        loaded,
        top_k=top_k or (len(loaded.class_names) if every else 5),
        tta=tta,
        **asked,
    )
    items = find_inputs(images, allow_network=allow_network)
    layout = Layout(
        class_names=loaded.class_names,
        several=several,
        sets=sets,
        top_k=top_k if out is not None else wanted.top_k,
        tta=tta,
    )
    work = _Work(
        run=loaded,
        items=items,
        asked=wanted,
        workers=workers,
        layout=layout,
    )
    if on is None:
        work.engine = _chosen_engine(work, engine, batch_size, precision, out if resume else None)
    options: dict[str, object] = {**asked, "top_k": top_k, "tta": tta, "precision": precision}
    try:
        if out is None:
            _WRITERS[form](work)
        elif work.readable and on is None:
            _write_file(work, out, {**options, "format": out.suffix}, resume=resume)
        elif work.readable:
            options["engine"] = "torch" if engine == "auto" else engine
            cluster = _Cluster(
                address=ray_address or os.environ.get("RAY_ADDRESS") or "local",
                device=device,
                options={"batch_size": batch_size, "allow_network": allow_network},
                allocator_tuning=allocator_tuning,
            )
            _write_folder(work, out, options, cluster, resume=resume)
    except KeyboardInterrupt:
        echo(f"! interrupted: {work.done} of {work.readable} images are done", err=True)
        if out is not None:
            echo("! the same command with --resume continues", err=True)
        raise SystemExit(130) from None
    if rank_and_count()[0] == 0:  # The first process speaks for all.
        _report_left_out(work, images, in_file=out is not None)


def _chosen_engine(
    work: _Work, name: str, batch_size: int | None, precision: Precision, continued: Path | None
) -> Engine:
    """Return the engine of a name, and print why it is used; a file keeps that it was begun with.

    `continued` is the file to continue, if there is one.
    """
    from zoo.machine.processes import rank_and_count
    from zoo.prediction.engines import choose_engine
    from zoo.prediction.output import engine_of, share_of

    begun_with = None
    if continued is not None:
        rank, processes = rank_and_count()
        begun_with = engine_of(share_of(continued, rank, processes))
    choice = choose_engine(
        work.run,
        begun_with if name == "auto" and begun_with else name,
        images=work.readable,
        batch_size=batch_size,
        precision=precision,
        say=lambda text: echo(f"! {with_flags(text)}", err=True),
    )
    if choice.reason:
        echo(choice.reason, err=True)
    return choice.engine


def _report_left_out(work: _Work, images: Sequence[str], *, in_file: bool) -> None:
    """Print how many images can't be read and which files are none.

    Raises:
        DataError: No image can be read.
    """
    from zoo.data.sources.extensions import skipped

    if work.unreadable:
        left_out = "have an error in their row" if in_file else "left out"
        echo(f"! {count(work.unreadable, 'unreadable image')} {left_out}", err=True)
    lines = [f"skipped {line}" for line in skipped(Path(i.name) for i in work.items if i.skipped)]
    for line in lines:
        echo(f"! {line}", err=True)
    if work.unreadable == work.readable:
        because = "".join(f"\n  {line}" for line in lines)
        raise DataError(f"no readable images in {', '.join(map(printable, images))}{because}")


def _check_usage(form: str, out: Path | None, resume: bool, top_k: int | None) -> None:
    if out is None and form == "csv" and top_k is not None:
        raise click.UsageError(
            "--top-k applies to table, json and --out; --format csv names the best class"
        )
    if out is not None and form != "table":
        raise click.UsageError("--format is for stdout; the format of --out is that of its name")
    if resume and out is None:
        raise click.UsageError("--resume needs --out, the file to continue")
    if out is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise click.UsageError("several processes write one file: name it with --out")


def _check_cluster(on: str | None, address: str | None, out: Path | None, device: str) -> None:
    if on is None:
        if address is not None:
            raise click.UsageError("--ray-address needs --on ray")
        return
    if out is None or out.suffix in (".csv", ".jsonl"):
        raise click.UsageError("--on ray writes a folder of Parquet files: name it with --out")
    if device == "mps":
        raise click.UsageError("--on ray computes on CPUs or on NVIDIA or AMD GPUs: --device cuda")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise click.UsageError("--on ray divides the images itself: start it without a launcher")


Entry = tuple[str, "Prediction | Unreadable"]


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    """Where and how the machines of a cluster compute.

    Attributes:
        address: Address of the cluster.
        device: The device that each process of it computes on.
        options: Arguments of `zoo.ray.Predictor` on which rows don't depend.
        allocator_tuning: Whether the processes tune their memory allocators.
    """

    address: str
    device: str
    options: Mapping[str, object]
    allocator_tuning: bool


@dataclass(kw_only=True)
class _Work:
    """What is to be predicted, and how far it is.

    Attributes:
        run: The run.
        items: Images, and after them the files that are none.
        asked: What is asked of predictions.
        engine: What computes here; None: torch.
        workers: Threads that decode.
        layout: What rows have.
        done: Number of images that are done.
        unreadable: How many of them can't be read.
    """

    run: Run
    items: list[Item]
    asked: Asked
    workers: int | None
    layout: Layout
    engine: Engine | None = None
    done: int = 0
    unreadable: int = 0

    @property
    def readable(self) -> int:
        """Number of items that are not files of other kinds."""
        return sum(not item.skipped for item in self.items)

    def entries(self, *, start: int = 0, tell: bool = True) -> Iterator[Entry]:
        """Yield the name and the prediction of each item from `start` on.

        With `tell`, each image that can't be read is named on stderr.
        """
        from zoo.runs.stream import Unreadable, predictions, torch_engine

        images = [item for item in self.items if not item.skipped]
        total = len(images)
        left = range(min(start, total), total)
        found = predictions(
            self.run,
            ((Path(images[n].name), images[n].image) for n in left),
            self.asked,
            self.engine or torch_engine(self.run),
            workers=self.workers,
        )
        bar = not tell or not sys.stdout.isatty()
        with ImageProgress(total, done=left.start, bar=bar) as progress:
            for n, each in zip(left, found, strict=True):
                if isinstance(each, Unreadable):
                    self.unreadable += 1
                    if tell:
                        echo(f"! {printable(each.error)}", err=True)
                self.done += 1
                progress.advance()
                yield images[n].name, each
        for item in self.items[max(start, total) :]:
            yield item.name, Unreadable(path=Path(item.name), error=item.skipped)

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield each entry as JSON-ready data."""
        from zoo.prediction.rows import as_row

        return (as_row(name, found, self.layout) for name, found in self.entries())

    def predicted(self) -> Iterator[tuple[str, Prediction]]:
        """Yield the entries with a prediction."""
        from zoo.runs.read import Prediction

        return ((name, p) for name, p in self.entries() if isinstance(p, Prediction))


def _write_file(work: _Work, out: Path, options: Mapping[str, object], *, resume: bool) -> None:
    """Write the file of predictions, or the rest of it; several processes divide the images."""
    from zoo.machine.processes import exchange, rank_and_count, together
    from zoo.prediction.inputs import inputs_sha256
    from zoo.prediction.output import job_of, join_shares, writing

    rank, processes = rank_and_count()
    share = replace(work, items=_share(work.items, rank, processes))
    engine = "torch" if work.engine is None else work.engine.name
    job = job_of(work.run, options, inputs_sha256(share.items), engine)
    names = [item.name for item in share.items]

    def write_rows() -> None:
        opened = writing(
            out, job, names, work.layout, rank=rank, processes=processes, resume=resume
        )
        with opened as (begun, write):
            share.done = min(begun.rows, sum(not item.skipped for item in share.items))
            # Rows of files that are no images come last, and have errors too.
            share.unreadable = begun.unreadable - (begun.rows - share.done)
            for name, found in share.entries(start=begun.rows, tell=False):
                write(name, found)

    try:
        together(write_rows)
    finally:
        work.done, work.unreadable = share.done, share.unreadable
    if processes > 1:
        counts = exchange([share.done, share.unreadable])
        work.done, work.unreadable = map(sum, zip(*counts, strict=True))
        if rank == 0:
            join_shares(out, processes, work.layout)
    if rank == 0:
        echo(f"{out}: {count(len(work.items), 'row')}")


def _write_folder(
    work: _Work, out: Path, options: Mapping[str, Any], cluster: _Cluster, *, resume: bool
) -> None:
    """Write the folder of predictions, or the rest of it, on a Ray cluster."""
    from zoo.prediction.inputs import inputs_sha256
    from zoo.prediction.output import job_of, writing_folder
    from zoo.ray.cluster import connected, pool
    from zoo.ray.parts import check_complete, divided, part_file, unreadable_in

    parts = dict(enumerate(divided(work.items)))
    skipped = len(work.items) - work.readable
    job = job_of(
        work.run, {**options, "format": "folder"}, inputs_sha256(work.items), options["engine"]
    )
    with connected(cluster.address), writing_folder(out, job, resume=resume) as folder:
        from zoo.ray.job import Task, write_parts

        actors = pool(cluster.device, work.workers)
        given = {**options, **cluster.options, "device": actors.device, "workers": actors.workers}
        task = Task(
            run=work.run.path,
            folder=folder,
            current=Path.cwd(),
            options={name: value for name, value in given.items() if value is not None},
            allocator_tuning=cluster.allocator_tuning,
        )
        left = {n: items for n, items in parts.items() if not part_file(folder, n).exists()}
        rows = len(work.items) - sum(map(len, left.values()))
        errors = sum(unreadable_in(part_file(folder, n)) for n in parts if n not in left)
        with ImageProgress(len(work.items), done=rows) as progress:
            for part in write_parts(left, task, actors) if left else ():
                progress.advance(part.rows)
                rows, errors = rows + part.rows, errors + part.unreadable
                work.done = min(rows, len(work.items) - skipped)
        check_complete(folder, len(parts))
    work.unreadable = errors - skipped
    echo(f"{out}: {count(rows, 'row')} in {count(len(parts), 'file')}")


def _share(items: list[Item], rank: int, processes: int) -> list[Item]:
    """Return the items of one of several processes: as many images, the rest with the last."""
    images = sum(not item.skipped for item in items)
    start, end = (images * n // processes for n in (rank, rank + 1))
    return items[start : len(items) if rank == processes - 1 else end]


def _write_csv(work: _Work) -> None:
    several, sets, tta = work.layout.several, work.layout.sets, work.layout.tta
    writer = csv.writer(sys.stdout, lineterminator="\n")
    columns = ["labels"] if several else ["label", "probability", "unsure"]
    last = [*(["label_set"] if sets else []), *(["tta"] if tta else [])]
    writer.writerow(["path", *columns, "unfamiliar", *last])
    for name, p in work.predicted():
        names = [name, "|".join(p.labels), *(["|".join(p.label_set or ())] if sets else [])]
        path, label, *label_set = map(spreadsheet_cell, names)
        numbers = [] if several else [f"{p.probability:.6f}", _yes_no(p.unsure)]
        last = [*label_set, *([tta] if tta else [])]
        writer.writerow([path, label, *numbers, _yes_no(_unfamiliar(p)), *last])


def _yes_no(value: bool | None) -> str:
    return {True: "true", False: "false", None: ""}[value]


def _unfamiliar(prediction: Prediction) -> bool | None:
    return None if prediction.familiar is None else not prediction.familiar


def _write_table(work: _Work) -> None:
    several, sets = work.layout.several, work.layout.sets
    console = plain_console()
    for name, p in work.predicted():
        ranked = [(label, f"{probability:.1%}") for label, probability in p.top]
        if several:
            # Labels below their threshold are marked.
            mark = {True: "", False: " (no)"}
            ranked = [(label, value + mark[label in p.labels]) for label, value in ranked]
        elif sets:
            ranked = [(label, value) for label, value in ranked if label in (p.label_set or ())]
        marks = ["unsure"] if p.unsure else []
        marks += ["unfamiliar"] if _unfamiliar(p) else []
        start = "".join(f"  {mark}:" for mark in marks)
        top = "  ".join(f"{printable(label)} {value}" for label, value in ranked)
        line = f"{printable(name)}{start}  {top}"
        if cell_len(line) <= console.width:
            echo(line)
        else:
            # The path is not wrapped, so that it can be copied.
            echo(f"{printable(name)}{start}")
            rows = [("", value, label_) for label_, value in ranked]
            print_table([label(), number(), text()], rows, console=console)


_WRITERS: dict[str, Callable[[_Work], None]] = {
    "json": lambda work: echo_json_list(work.rows()),
    "jsonl": lambda work: echo_json_lines(work.rows()),
    "csv": _write_csv,
    "table": _write_table,
}
