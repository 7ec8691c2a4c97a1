"""Issues of a dataset: what was left out of it or is to be known about it, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from zoo.errors import DataError
from zoo.io.text import printable

Kind = Literal[
    "note",
    "skipped",
    "unreadable",
    "wrong-extension",
    "outside-link",
    "circular-link",
    "broken-link",
]

#: Kinds of which one is named and the others are counted: (noun, what they are, what to do).
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

#: Kinds that `strict` makes an error.
STRICT_KINDS = frozenset({"unreadable", *_COUNTED})

#: Unreadable images that an error names.
_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Issue:
    """What a data source left out of a dataset, or what is to be known about it.

    Attributes:
        kind: `unreadable`: an image that can't be decoded; `outside-link`, `circular-link`,
            `broken-link`: a link that is not followed; `skipped`: anything else that is left out;
            `wrong-extension`: an image of another format than its extension says, which is used;
            `note`: anything else.
        name: The image, link or folder; None if it is about the dataset.
        reason: Why it is left out, or what is to be known.
    """

    kind: Kind
    name: str | None = None
    reason: str

    @property
    def left_out(self) -> bool:
        """Whether the dataset lacks it."""
        return self.kind not in ("note", "wrong-extension")


def describe(
    issues: Iterable[Issue], *, refused: bool = False, examples: int | None = None
) -> list[str]:
    """Issues in words: a line for each, or for all links of a kind and all wrong extensions.

    Args:
        issues: Of a dataset.
        refused: They are an error, so that nothing is left out.
        examples: Unreadable images that are named at most; None: all.
    """
    by_kind: dict[Kind, list[Issue]] = {}
    for issue in dict.fromkeys(issues):
        by_kind.setdefault("note" if issue.kind == "skipped" else issue.kind, []).append(issue)
    lines = [f"{i.name}: {i.reason}" if i.name else i.reason for i in by_kind.get("note", [])]
    unreadable = by_kind.get("unreadable", [])
    lines += [f"unreadable image {issue.name}: {issue.reason}" for issue in unreadable[:examples]]
    if unreadable and not refused:
        s = "" if len(unreadable) == 1 else "s"
        lines.append(f"{len(unreadable):,} unreadable image{s} left out")
    for kind, (noun, what, advice) in _COUNTED.items():
        if found := by_kind.get(kind):
            first = found[0]
            prefix = "left out: " if first.left_out and not refused else ""
            s, such = ("", ": ") if len(found) == 1 else ("s", ", such as ")
            example = f"{first.name} ({first.reason})"
            lines.append(f"{prefix}{len(found):,} {noun}{s} {what}{such}{example}{advice}")
    return [printable(line) for line in lines]


def because(issues: Iterable[Issue]) -> str:
    """Issues as further lines of an error that may come of them."""
    lines = describe((i for i in issues if i.kind != "wrong-extension"), examples=_EXAMPLES)
    return "".join(f"\n  {line}" for line in lines)


def refuse(issues: Iterable[Issue]) -> None:
    """Make issues an error, as `strict` does.

    Raises:
        DataError: There is one of `STRICT_KINDS`.
    """
    if refused := [issue for issue in issues if issue.kind in STRICT_KINDS]:
        raise DataError("\n".join(describe(refused, refused=True)))
