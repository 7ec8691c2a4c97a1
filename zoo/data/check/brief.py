"""Short form of the dataset check, reported before every training run."""

from __future__ import annotations

from collections.abc import Mapping

from zoo.data.check.compare import Photo, compare_splits
from zoo.data.check.examine import Examined
from zoo.data.check.findings import Finding, examples, of_comparisons, of_images
from zoo.data.check.folders import of_sizes
from zoo.data.check.names import of_all_names
from zoo.data.split import Splits

#: Kinds of findings that affect results; the others are left to `zoo data check`.
_KINDS = frozenset(
    {
        "leakage",
        "label-conflict",
        "near-leakage",
        "test-in-val",
        "related-names",
        "near-conflict",
        "duplicates",
        "imbalance",
        "dropped-bands",
        "tiny",
    }
)

_EXAMPLES = 3


def warn_of(splits: Splits, examined: Mapping[bytes, Examined], *, channels: int = 3) -> list[str]:
    """Format a warning line with examples for each kind of finding that affects results.

    `examined` is by the key of the content; images without a result are not judged.
    """
    photos = [
        Photo(
            path=sample.name,
            labels=sample.labels,
            split=split,
            examined=examined[sample.content.key],
            group=sample.group,
        )
        for split, samples in (("train", splits.train), ("val", splits.val), ("test", splits.test))
        for sample in samples
        if sample.content is not None and sample.content.key in examined
    ]
    findings = [
        *of_comparisons(compare_splits(photos)),
        *of_images(photos, channels=channels),
        *of_all_names(photos),
    ]
    return [_line(finding) for finding in findings if finding.kind in _KINDS]


def sizes_of(splits: Splits) -> list[str]:
    """Format a line on the classes, and one on val and one on test, if they have few images."""
    found = {"train": splits.train, "val": splits.val, "test": splits.test}
    counts = {
        split: dict(zip(splits.class_names, splits.counts(samples), strict=True))
        for split, samples in found.items()
        if samples
    }
    images = {split: len(samples) for split, samples in found.items()}
    return [_line(finding) for finding in of_sizes(counts, images)]


def _line(finding: Finding) -> str:
    return ": ".join([finding.text, ", ".join(examples(finding, _EXAMPLES))]).removesuffix(": ")
