"""Issues of a dataset in words, and which of them `strict` refuses."""

from typing import get_args

import pytest

from zoo.data.issue import STRICT_KINDS, Issue, Kind, because, describe, refuse
from zoo.errors import DataError

EACH = [Issue(kind=kind, name=f"a {kind}", reason="so") for kind in get_args(Kind)]


def unreadable(count: int) -> list[Issue]:
    return [Issue(kind="unreadable", name=f"{n}.png", reason="torn") for n in range(count)]


def test_strict_refuses_all_but_notes_and_what_is_skipped():
    for issue in EACH:
        if issue.kind in STRICT_KINDS:
            with pytest.raises(DataError, match=issue.name):
                refuse([issue])
        else:
            refuse([issue])
    assert set(get_args(Kind)) - STRICT_KINDS == {"note", "skipped"}


def test_every_issue_is_described_once():
    lines = describe([*EACH, *EACH])
    for issue in EACH:
        assert len([line for line in lines if str(issue.name) in line]) == 1
        assert len(describe([issue])) == (2 if issue.kind == "unreadable" else 1)


def test_many_links_are_a_line_and_each_unreadable_image_has_one():
    links = [Issue(kind="outside-link", name=f"{n}", reason="so") for n in range(2000)]
    (line,) = describe(links)
    assert "2,000 links" in line
    assert "0 (so)" in line
    assert len(describe(unreadable(9))) == 10


def test_an_error_names_some_unreadable_images_and_counts_them():
    text = because([*unreadable(9), Issue(kind="wrong-extension", name="x", reason="so")])
    assert text.count("torn") == 3
    assert "9 unreadable" in text
    assert "another format" not in text
    assert because([]) == ""


def test_names_stay_on_a_line():
    assert "\x1b" not in "".join(describe([Issue(kind="note", name="\x1b[2J", reason="a\nb")]))
    assert "\n" not in "".join(describe([Issue(kind="note", reason="a\nb")]))
