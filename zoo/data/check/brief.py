"""Short form of the dataset check, reported before every training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.data.check.compare import Photo, compare
from zoo.data.check.examine import Examined
from zoo.data.check.findings import Finding, examples, of_comparison, of_images
from zoo.data.split import Splits

#: Kinds of findings that affect results; the others are left to `zoo data check`.
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
    """Format a warning line with examples for each kind of finding that affects results.

    Args:
        splits: Splits that training will use.
        examined: Examination results of their files.
        data: Source of the data, as given by the user.
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
