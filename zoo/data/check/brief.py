"""Short form of the dataset check, reported before every training run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.data.check.compare import Photo, compare
from zoo.data.check.examine import Examined
from zoo.data.check.findings import Finding, examples, of_comparison, of_images
from zoo.data.check.names import of_names
from zoo.data.split import Splits

#: Kinds of findings that affect results; the others are left to `zoo data check`.
_KINDS = frozenset(
    {
        "leakage",
        "label-conflict",
        "near-leakage",
        "related-names",
        "near-conflict",
        "duplicates",
        "imbalance",
        "dropped-bands",
        "tiny",
    }
)

#: Kinds of findings about two splits.
_ACROSS = frozenset({"leakage", "near-leakage"})

_EXAMPLES = 3


def warn_of(splits: Splits, examined: Mapping[Path, Examined], data: str) -> list[str]:
    """Format a warning line with examples for each kind of finding that affects results.

    Args:
        splits: Splits that training will use.
        examined: Examination results of their files.
        data: Source of the data, as given by the user.
    """
    train, val, test = (
        [
            Photo(
                path=sample.name,
                labels=sample.labels,
                split=split,
                examined=examined[sample.file],
            )
            for sample in samples
            if sample.file is not None
        ]
        # As images to evaluate on, those of test are checked like those of val.
        for split, samples in (("train", splits.train), ("val", splits.val), ("val", splits.test))
    )
    findings = [*of_comparison(compare([*train, *val]), flat=False), *of_images([*train, *val])]
    across = of_comparison(compare([*train, *test]), flat=False, held_out="test") if test else []
    findings += [finding for finding in across if finding.kind in _ACROSS]
    if all(sample.group is None for sample in (*splits.train, *splits.val, *splits.test)):
        named = [of_names([*train, *val]), of_names([*train, *test], held_out="test")]
        findings += [finding for finding in named if finding is not None]
    lines = [_line(finding) for finding in findings if finding.kind in _KINDS]
    return [*lines, f"zoo data check {data} shows all and what to do"] if lines else []


def _line(finding: Finding) -> str:
    return ": ".join([finding.text, ", ".join(examples(finding, _EXAMPLES))]).removesuffix(": ")
