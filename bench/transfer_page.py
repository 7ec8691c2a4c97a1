"""docs/transfer.md from the records of transfer.py and the sets of sets.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sets import SETS, ImageSet
from transfer import TOOLS, Record, best_epoch

PAGE = Path(__file__).parents[1] / "docs" / "transfer.md"
PEERS = tuple(tool.name for tool in TOOLS if tool.is_peer)
ZOO, BEST, QUARTER = "zoo", "zoo best", "zoo, a quarter of the time"
#: Sets on whose val images the recipe `best` was chosen.
CHOSEN_ON = ("blood", "hand_digits", "road_arrows", "spoken_digits")
#: In points: a run that ends this far below the probe is counted.
MARGIN = 0.5

#: The test runs of each tool on each set: what the tables are made of.
Runs = dict[str, dict[str, list[Record]]]

START, END = "<!-- transfer.py writes from here -->", "<!-- to here -->"


def write(records: Sequence[Record], page: Path = PAGE, sets: Sequence[ImageSet] = SETS) -> None:
    """Rewrite the page between its markers."""
    replace_between(page, START, tables(records, sets))


def replace_between(page: Path, start: str, text: str) -> None:
    """Replace what a page has between a marker and the next END.

    Raises:
        LookupError: The page lacks one of them.
    """
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise LookupError(f"{page} has no {END if found else start}")
    page.write_text(f"{before}{start}\n\n{text}\n{END}{after}", encoding="utf-8")


def tables(records: Sequence[Record], sets: Sequence[ImageSet]) -> str:
    """Everything that was measured, in Markdown."""
    runs = tested(records, [one.name for one in sets])
    used = [one for one in sets if any(one.name in found for found in runs.values())]
    names = [one.name for one in used]
    parts = {
        "Sets": _sets(used, records),
        "Summary": _summary(runs, names, records),
        "Accuracy, %": _by_set(runs, names, _accuracy, "{:.1f}", spread=True),
        "zoo at equal time": _equal_time(runs, names),
        "zoo in a quarter of the time": _quarter(runs, names),
        "The recipe best": _best(runs, names),
        "Balanced accuracy, %": _by_set(
            runs, names, lambda r: 100 * r["test"]["balanced_accuracy"], "{:.1f}"
        ),
        "Log-loss": _by_set(runs, names, lambda r: r["test"]["log_loss"], "{:.3f}"),
        "ECE, %": _by_set(runs, names, lambda r: 100 * r["test"]["ece"], "{:.1f}"),
        "Seconds a run": _by_set(_timed(runs), names, _seconds, "{:.0f}"),
        "Learning rates": _rates(runs, names),
        "Versions": _versions(runs),
    }
    return "\n".join(f"## {heading}\n\n{body}" for heading, body in parts.items())


def tested(records: Iterable[Record], names: Sequence[str]) -> Runs:
    """The runs that are reported, by tool and set; tools in the order of transfer.py."""
    found: Runs = {}
    for record in records:
        if "test" in record and record["set"] in names:
            found.setdefault(record["tool"], {}).setdefault(record["set"], []).append(record)
    order = [tool.name for tool in TOOLS]
    known = sorted(found, key=lambda t: (order.index(t) if t in order else len(order), t))
    return {tool: found[tool] for tool in known}


def _timed(runs: Runs) -> Runs:
    """Those of the first seed, for which all tools take turns on the same machine."""
    return {
        tool: {
            name: [record for record in some if record["seed"] == min(r["seed"] for r in some)]
            for name, some in found.items()
        }
        for tool, found in runs.items()
    }


def _sets(sets: Sequence[ImageSet], records: Sequence[Record]) -> str:
    about = {record["set"]: record for record in records}
    rows = []
    for one in sets:
        counts = about[one.name]["images"]
        rows.append(
            [
                one.name,
                one.kind,
                str(about[one.name]["classes"]),
                " / ".join(str(counts[split]) for split in ("train", "val", "test")),
                str(about[one.name]["image_size"]),
                one.source,
                one.licence,
                "; ".join(filter(None, ["mirroring misleads" * one.mirror_sensitive, one.note])),
            ]
        )
    heading = ["set", "what it shows", "classes", "train / val / test", "pixels", "source"]
    return table([*heading, "licence", "note"], rows)


def _summary(runs: Runs, names: Sequence[str], records: Sequence[Record]) -> str:
    """Over the sets that every tool shown here has been measured on."""
    shared = [n for n in names if all(n in runs.get(peer, {}) for peer in PEERS)]
    tools = [tool for tool, found in runs.items() if shared and all(n in found for n in shared)]
    if not tools:
        return "No set has been measured with all peers yet.\n"
    means = np.array([[_mean(runs[t][n], _accuracy) for n in shared] for t in tools])
    ranks = rankdata(-means, axis=0)
    best_peer = means[[tools.index(peer) for peer in PEERS]].max(axis=0)
    rows = []
    for position, tool in enumerate(tools):
        gaps = means[position] - best_peer
        worst = int(gaps.argmin())
        mine = [record for n in shared for record in runs[tool][n]]
        timed = [record for n in shared for record in _timed(runs)[tool][n]]
        every = [r for r in records if r["tool"] == tool and r["set"] in shared]
        rows.append(
            [
                tool,
                f"{means[position].mean():.2f}",
                f"{ranks[position].mean():.2f}",
                f"{gaps[worst]:+.1f} ({shared[worst]})",
                f"{statistics.median(record['cpu_seconds'] for record in timed):.0f}",
                _below_probe(mine, runs),
                f"{sum(map(diverged, every))} of {len(every)}",
            ]
        )
    seeds = {len(runs[tool][n]) for tool in tools for n in shared}
    note = (
        f"Of the {len(shared)} sets that all peers have been measured on, and the tools that have\n"
        f"been on all of these ({' or '.join(map(str, sorted(seeds)))} seeds each).\n"
    )
    heading = ["tool", "mean accuracy, %", "mean rank", "worst case", "median s a run"]
    return f"{note}\n{table([*heading, 'below the probe', 'diverged'], rows)}"


def diverged(record: Record) -> bool:
    """Whether training ran away, or ended where it knows nothing."""
    losses = [epoch["val_log_loss"] for epoch in record["epochs"]]
    return None in losses or record["epochs"][-1]["val_accuracy"] <= 1 / record["classes"]


def _below_probe(mine: Sequence[Record], runs: Runs) -> str:
    """Of a release's rows the probe is its own: "zoo 0.1.0" has "zoo 0.1.0 probe"."""
    tool = mine[0]["tool"]
    own = f"{tool} probe"
    if tool.endswith("probe"):
        return "-"
    probes = {
        (record["set"], record["seed"]): record["test"]["accuracy"]
        for found in runs.get(own if own in runs else "zoo probe", {}).values()
        for record in found
    }
    known = [r for r in mine if (r["set"], r["seed"]) in probes]
    below = [
        r
        for r in known
        if r["test"]["accuracy"] < probes[r["set"], r["seed"]] - MARGIN / 100 - 1e-9
    ]
    return f"{len(below)} of {len(known)}" if known else "-"


def _by_set(
    runs: Runs,
    names: Sequence[str],
    figure: Callable[[Record], float],
    form: str,
    *,
    spread: bool = False,
) -> str:
    """A row a set, a column a tool."""

    def cell(found: list[Record]) -> str:
        values = [figure(record) for record in found]
        if not values:
            return "-"
        deviation = f" ± {form.format(statistics.stdev(values))}" if len(values) > 1 else ""
        return form.format(statistics.fmean(values)) + deviation * spread

    rows = [[name, *(cell(found.get(name, [])) for found in runs.values())] for name in names]
    return table(["set", *runs], rows)


def _equal_time(runs: Runs, names: Sequence[str]) -> str:
    rows, timed = [], _timed(runs)
    for name in names:
        mine = runs.get(ZOO, {}).get(name)
        peers = {peer: runs[peer][name] for peer in PEERS if name in runs.get(peer, {})}
        if not mine or not peers:
            continue
        seconds = _mean(timed[ZOO][name], _seconds)
        by_then = {peer: _mean(timed[peer][name], partial(_val, within=seconds)) for peer in peers}
        best = max(by_then, key=by_then.__getitem__)
        whole, of_best = _best_peer(peers)
        theirs = _mean(timed[whole][name], _seconds)
        rows.append(
            [
                name,
                f"{_mean(timed[ZOO][name], _val):.1f}",
                f"{by_then[best]:.1f} ({best})",
                f"{_mean(mine, _accuracy):.1f}",
                f"{of_best:.1f} ({whole})",
                f"{theirs / seconds:.1f}",
            ]
        )
    if not rows:
        return "Not measured yet.\n"
    heading = ["set", "zoo, val", "best peer by then, val", "zoo, test", "best peer, test"]
    return table([*heading, "seconds ratio"], rows)


def _quarter(runs: Runs, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        mine = runs.get(QUARTER, {}).get(name)
        peers = {peer: runs[peer][name] for peer in PEERS if name in runs.get(peer, {})}
        if not mine or not peers:
            continue
        early = {
            peer: _mean(some, lambda r: 100 * r["quarter"]["accuracy"])
            for peer, some in peers.items()
        }
        best = max(early, key=early.__getitem__)
        whole, of_best = _best_peer(peers)
        accuracy = _mean(mine, _accuracy)
        rows.append(
            [
                name,
                f"{accuracy:.1f}",
                f"{early[best]:.1f} ({best})",
                f"{of_best:.1f} ({whole})",
                f"{accuracy - of_best:+.1f}",
                f"{_mean(mine, _seconds):.0f}",
            ]
        )
    if not rows:
        return "Not measured yet.\n"
    heading = ["set", "zoo, a quarter", "best peer, a quarter", "best peer, whole run"]
    return table([*heading, "difference of zoo's to it", "seconds of zoo's"], rows)


def _best(runs: Runs, names: Sequence[str]) -> str:
    """What the recipe gains over the defaults, on the sets and seeds that both have."""
    rows, gains = [], {}
    for name in names:
        default = {r["seed"]: r for r in runs.get(ZOO, {}).get(name, [])}
        pairs = [(r, default[r["seed"]]) for r in runs.get(BEST, {}).get(name, [])]
        if not pairs:
            continue
        accuracies = [statistics.fmean(map(_accuracy, some)) for some in zip(*pairs, strict=True)]
        seconds = [statistics.fmean(map(_seconds, some)) for some in zip(*pairs, strict=True)]
        losses = [
            statistics.fmean(r["test"]["log_loss"] for r in some)
            for some in zip(*pairs, strict=True)
        ]
        gains[name] = accuracies[0] - accuracies[1], seconds[0] / seconds[1]
        rows.append(
            [
                f"{name} *" if name in CHOSEN_ON else name,
                str(len(pairs)),
                f"{accuracies[1]:.1f}",
                f"{accuracies[0]:.1f}",
                f"{gains[name][0]:+.1f}",
                f"{losses[1]:.3f}",
                f"{losses[0]:.3f}",
                f"{gains[name][1]:.1f}",
            ]
        )
    if not rows:
        return "Not measured yet.\n"
    heading = ["set", "seeds", "default, %", "best, %", "gain, points", "log-loss of default"]
    text = table([*heading, "log-loss of best", "times the seconds"], rows)
    others = [gain for name, (gain, _) in gains.items() if name not in CHOSEN_ON]
    every = [gain for gain, _ in gains.values()]
    return (
        f"{text}\nMean gain: {_interval(every)}"
        + f"; without the sets that the recipe was chosen on (*): {_interval(others)}"
        * bool(others)
        + f". Better on {sum(gain > 0 for gain in every)}, worse on "
        f"{sum(gain < 0 for gain in every)}. Seconds: median "
        f"{statistics.median(ratio for _, ratio in gains.values()):.1f} times, at most "
        f"{max(ratio for _, ratio in gains.values()):.1f} times.\n"
    )


def _interval(gains: Sequence[float]) -> str:
    low, high = bootstrap_interval(gains)
    return (
        f"{statistics.fmean(gains):+.2f} points on {len(gains)} sets (95 % interval {low:+.2f} to "
        f"{high:+.2f})"
    )


def bootstrap_interval(values: Sequence[float], samples: int = 10_000) -> tuple[float, float]:
    """95 % interval of a mean, by drawing the values again."""
    every = np.array(values)
    drawn = np.random.default_rng(0).integers(0, len(every), (samples, len(every)))
    low, high = np.quantile(every[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _rates(runs: Runs, names: Sequence[str]) -> str:
    """Those chosen; a star where the best was at an end of the list."""

    def cell(found: Sequence[Record]) -> str:
        rates = {f"{r['lr']:g}{'*' * bool(r.get('rate_at_edge'))}" for r in found}
        return " or ".join(sorted(rates)) or "-"

    peers = [peer for peer in PEERS if peer in runs]
    rows = [[name, *(cell(runs[peer].get(name, [])) for peer in peers)] for name in names]
    return table(["set", *peers], rows)


def _best_peer(peers: dict[str, list[Record]]) -> tuple[str, float]:
    means = {peer: _mean(some, _accuracy) for peer, some in peers.items()}
    best = max(means, key=means.__getitem__)
    return best, means[best]


def _seconds(record: Record) -> float:
    return float(record["cpu_seconds"])


def _accuracy(record: Record) -> float:
    return 100 * float(record["test"]["accuracy"])


def _val(record: Record, within: float = float("inf")) -> float:
    """The best val accuracy known by then, in percent; 0 before the first epoch's end."""
    if record["epochs"][0]["cpu_seconds"] > within:
        return 0.0
    return 100 * float(record["epochs"][best_epoch(record["epochs"], within)]["val_accuracy"])


def _mean(found: Sequence[Record], figure: Callable[[Record], float]) -> float:
    return statistics.fmean(map(figure, found))


def _versions(runs: Runs) -> str:
    lines = []
    for tool, found in runs.items():
        versions = {
            ", ".join(f"{name} {version}" for name, version in record["versions"].items())
            for some in found.values()
            for record in some
        }
        lines.append(f"- {tool}: {' or '.join(sorted(versions))}")
    return "\n".join(lines) + "\n"


def table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
