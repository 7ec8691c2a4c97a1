"""The most serious findings, reported before every training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.data.check.compare import Photo, compare
from zoo.data.check.examine import Examined
from zoo.data.check.findings import Finding, examples, of_comparison, of_images
from zoo.data.split import Splits

#: What bears on results; the rest is for `zoo data check`.
_KINDS = frozenset(
    {
        "leakage",
        "label-conflict",
        "near-leakage",
        "near-conflict",
        "duplicates",
        "imbalance",
        "dropped-bands",
        "tiny",
    }
)

_EXAMPLES = 3


def warn_of(splits: Splits, examined: Mapping[Path, Examined], data: str) -> list[str]:
    """A line for each kind of finding that bears on results, with examples.

    Args:
        splits: As training will use them.
        examined: What is known of their files.
        data: What they come from.
    """
    photos = [
        Photo(
            path=sample.name,
            labels=sample.labels,
            split=split,
            examined=examined[sample.file],
        )
        for split, samples in (("train", splits.train), ("val", splits.val))
        for sample in samples
        if sample.file is not None
    ]
    findings = [*of_comparison(compare(photos), flat=False), *of_images(photos)]
    lines = [_line(finding) for finding in findings if finding.kind in _KINDS]
    return [*lines, f"zoo data check {data} shows all and what to do"] if lines else []


def _line(finding: Finding) -> str:
    return ": ".join([finding.text, ", ".join(examples(finding, _EXAMPLES))]).removesuffix(": ")
