"""Reference to a labelled image that is read on demand."""

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
    """A labelled image.

    Attributes:
        name: Identifies the image in splits and seeds; independent of the dataset's location.
        labels: Names of its classes; one unless the task is multi-label.
        file: Image file; None if `load` returns its bytes.
        load: Returns the bytes of the encoded image (JPEG, PNG ...). Must be picklable where
            data loader workers are spawned (macOS, Windows).
        group: Group, such as a patient or a film, that is never split between train and val.
        content: Fingerprint of the image when it was first read; None before that.
        holder: The file that `load` reads; None if there is none, or several.
        stamp: Key of what `load` reads, by path, size and modification time of the file that holds
            the image, and its place there. Results of examining the image are stored under it;
            empty: they are not stored.
    """

    name: str
    labels: tuple[str, ...]
    file: Path | None = None
    load: Callable[[], bytes] | None = None
    group: str | None = None
    content: Fingerprint | None = None
    holder: Path | None = None
    stamp: bytes = b""

    @property
    def where(self) -> str | Path:
        """File or name, for messages."""
        return self.file or self.name

    @property
    def label(self) -> str:
        """Names of its classes, joined by ` + `."""
        return " + ".join(self.labels)

    def read(self) -> bytes:
        """Read the bytes of the encoded image.

        Raises:
            DataError: The image can't be read, or has changed since it was first read.
        """
        if self.file is not None:
            return read_file(self.file, same=self.content)
        if self.content is not None and not self.content.hashed:
            self._check_holder(self.content)
        data = self.load() if self.load is not None else b""
        if not isinstance(data, bytes):
            raise DataError(
                f"unreadable image {printable(self.name)}: its source gives {type(data).__name__}, "
                f"not bytes"
            )
        hashed = self.content is not None and self.content.hashed
        if self.content is not None and hashed and image_key(data) != self.content.key:
            raise DataError(
                f"{printable(self.name)} has changed since it was first read", hint="start again"
            )
        return data

    def _check_holder(self, content: Fingerprint) -> None:
        """Check that the file that holds the image is as it was when it was listed.

        Raises:
            DataError: It has changed, or is gone.
        """
        if self.holder is None:
            return
        try:
            state = self.holder.stat()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise DataError(f"unreadable image {printable(self.name)}: {reason}") from error
        if (content.size, content.mtime_ns) != (state.st_size, state.st_mtime_ns):
            raise DataError(
                f"{printable(self.holder)} has changed since it was listed", hint="start again"
            )
