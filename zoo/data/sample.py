"""A labelled image, before it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zoo.cache.keys import image_key
from zoo.data.files import Fingerprint, read_file
from zoo.errors import DataError
from zoo.io.text import printable


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        name: The image's identity for splits and randomness: the same wherever the data set lies.
        labels: Names of its classes; one unless the task is multi-label.
        file: The image file; None if `load` gives its bytes.
        load: Gives the bytes of the encoded image (JPEG, PNG ...). Must be picklable where
            processes that load images are spawned (macOS, Windows).
        group: Images of one group (a patient, a film) are never split into train and val.
        content: What the image held when it was first read; None before that.
    """

    name: str
    labels: tuple[str, ...]
    file: Path | None = None
    load: Callable[[], bytes] | None = None
    group: str | None = None
    content: Fingerprint | None = None

    @property
    def where(self) -> str | Path:
        """What it is called in messages."""
        return self.file or self.name

    @property
    def label(self) -> str:
        """The names of its classes, joined."""
        return " + ".join(self.labels)

    def read(self) -> bytes:
        """The bytes of the encoded image.

        Raises:
            DataError: It can't be read, or has changed since it was first read.
        """
        if self.file is not None:
            return read_file(self.file, same=self.content)
        data = self.load() if self.load is not None else b""
        if not isinstance(data, bytes):
            raise DataError(
                f"unreadable image {printable(self.name)}: its source gives {type(data).__name__}, "
                f"not bytes"
            )
        if self.content is not None and image_key(data) != self.content.key:
            raise DataError(
                f"{printable(self.name)} has changed since it was first read", hint="start again"
            )
        return data
