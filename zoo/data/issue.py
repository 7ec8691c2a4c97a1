"""Issues of a dataset: skipped items and notes, with their reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from zoo.errors import DataError
from zoo.io.text import count, printable

Kind = Literal[
    "note",
    "skipped",
    "unreadable",
    "wrong-extension",
    "outside-link",
    "circular-link",
    "broken-link",
]

#: Kinds reported as a count with one example: (noun, description, advice).
_COUNTED: dict[Kind, tuple[str, str, str]] = {
    "wrong-extension": (
        "image",
        "of another format than the extension says",
        (
            "; read as what it is; zoo data check DIR --fix-to NEW_DIR writes copies with the "
            "right extension"
        ),
    ),
    "outside-link": (
        "link",
        "leading out of the data folder",
        "; `follow_links` uses what they lead to, or copy that into it",
    ),
    "circular-link": ("link", "leading in a circle", ""),
    "broken-link": ("link", "leading nowhere", ""),
}

#: Kinds that are errors with `strict`.
STRICT_KINDS = frozenset({"unreadable", *_COUNTED})

#: Maximum number of unreadable images named in an error.
_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Issue:
    """An item that a data source skipped, or a note about the dataset.

    Attributes:
        kind: `unreadable`: an image that can't be decoded; `outside-link`, `circular-link`,
            `broken-link`: a link that is not followed; `skipped`: anything else that is left out;
            `wrong-extension`: an image whose format differs from its extension, which is used;
            `note`: anything else.
        name: The image, link or folder; None for an issue of the whole dataset.
        reason: Why it is left out, or the text of the note.
    """

    kind: Kind
    name: str | None = None
    reason: str

    @property
    def left_out(self) -> bool:
        """Whether the item is not part of the dataset."""
        return self.kind not in ("note", "wrong-extension")


def describe(
    issues: Iterable[Issue], *, refused: bool = False, examples: int | None = None
) -> list[str]:
    """Format issues as text lines, with one line for all links of a kind or wrong extensions.

    Args:
        issues: Issues of a dataset.
        refused: Whether the issues are an error, so that nothing is left out.
        examples: Maximum number of unreadable images to name; None: all.
    """
    by_kind: dict[Kind, list[Issue]] = {}
    for issue in dict.fromkeys(issues):
        by_kind.setdefault("note" if issue.kind == "skipped" else issue.kind, []).append(issue)
    lines = [f"{i.name}: {i.reason}" if i.name else i.reason for i in by_kind.get("note", [])]
    unreadable = by_kind.get("unreadable", [])
    lines += [f"unreadable image {issue.name}: {issue.reason}" for issue in unreadable[:examples]]
    if unreadable and not refused:
        lines.append(f"{count(len(unreadable), 'unreadable image')} left out")
    for kind, (noun, what, advice) in _COUNTED.items():
        if found := by_kind.get(kind):
            first = found[0]
            prefix = "left out: " if first.left_out and not refused else ""
            such = ": " if len(found) == 1 else ", such as "
            example = f"{first.name} ({first.reason})"
            lines.append(f"{prefix}{count(len(found), noun)} {what}{such}{example}{advice}")
    return [printable(line) for line in lines]


def because(issues: Iterable[Issue]) -> str:
    """Format issues as additional lines of an error that they may have caused."""
    lines = describe((i for i in issues if i.kind != "wrong-extension"), examples=_EXAMPLES)
    return "".join(f"\n  {line}" for line in lines)


def refuse(issues: Iterable[Issue]) -> None:
    """Raise an error for issues of `STRICT_KINDS`, as `strict` does.

    Raises:
        DataError: If there is an issue of these kinds.
    """
    if refused := [issue for issue in issues if issue.kind in STRICT_KINDS]:
        raise DataError("\n".join(describe(refused, refused=True)))
