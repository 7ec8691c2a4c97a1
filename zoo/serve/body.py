"""The images in the body of a request, which anybody may have written."""

from __future__ import annotations

import base64
import binascii
import logging
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from zoo.errors import ZooError
from zoo.io.parse import MAX_JSON, parse_json
from zoo.io.text import printable

#: Media types whose body is one encoded image, besides `image/...`.
_RAW = frozenset({"", "application/octet-stream"})

_FORM, _JSON = "multipart/form-data", "application/json"


# It would log what is wrong with a client's request, which the response says.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class RefusedError(ZooError):
    """A request that is refused.

    Attributes:
        status: Status code of the response.
    """

    def __init__(self, status: int, text: str, *, hint: str | None = None) -> None:
        super().__init__(text, hint=hint)
        self.status = status


def images_in(content_type: str, body: bytes, most: int) -> list[bytes]:
    """Return the encoded images of a request's body, from 1 to `most`.

    Args:
        content_type: Header of the request: `multipart/form-data`, each part of which is an image;
            `application/json`, an object with `image`, base64, or `images`, a list of such; or
            `image/...` or `application/octet-stream`, an image itself.
        body: The body.
        most: Maximum number of images.

    Raises:
        RefusedError: It is of another type, invalid, or has no images or too many.
    """
    kind, options = _media_type(content_type)
    if kind == _FORM:
        found = _parts(options.get(b"boundary", b""), body, most)
    elif kind == _JSON:
        found = _decoded(body, most)
    elif kind in _RAW or kind.startswith("image/"):
        found = [body] if body else []
    else:
        raise RefusedError(
            415,
            f"the content type {printable(kind)[:100]} is not supported",
            hint=f"send {_FORM}, {_JSON}, an image type or application/octet-stream",
        )
    if not found:
        raise RefusedError(400, "the request has no image")
    for n, image in enumerate(found, 1):
        if not image:
            raise RefusedError(400, f"image {n} of the request is empty")
    return found


def _media_type(content_type: str) -> tuple[str, dict[bytes, bytes]]:
    try:
        kind, options = parse_options_header(content_type)
    except ValueError as error:
        raise RefusedError(400, "the content type of the request is invalid") from error
    return kind.decode("latin-1").strip(), options


def _too_many(most: int) -> RefusedError:
    return RefusedError(
        413, f"the request has too many images; up to {most} are accepted", hint="send several"
    )


def _parts(boundary: bytes, body: bytes, most: int) -> list[bytes]:
    """Return the contents of the parts of a form."""
    parts: list[bytearray] = []
    ended: list[bool] = []

    def begin() -> None:
        if len(parts) == most:
            raise _too_many(most)
        parts.append(bytearray())

    def data(content: bytes, start: int, end: int) -> None:
        parts[-1] += memoryview(content)[start:end]

    try:
        if not boundary:
            raise FormParserError("it has no boundary")
        parser = MultipartParser(
            boundary,
            {"on_part_begin": begin, "on_part_data": data, "on_end": lambda: ended.append(True)},
        )
        parser.write(body)
        parser.finalize()
        if not ended:
            raise FormParserError("it ends too early")
    except FormParserError as error:
        raise RefusedError(400, f"the form is invalid: {printable(error)[:200]}") from error
    return [bytes(part) for part in parts]


def _decoded(body: bytes, most: int) -> list[bytes]:
    """Return the images of a JSON object."""
    if len(body) > MAX_JSON:
        raise RefusedError(
            413,
            f"the JSON of the request has {len(body):,} bytes; up to {MAX_JSON:,} are accepted",
            hint="send the image itself, or a form",
        )
    try:
        value = parse_json(body)
    except ValueError as error:
        raise RefusedError(400, f"invalid JSON: {printable(error)[:200]}") from error
    texts = _texts(value)
    if len(texts) > most:
        raise _too_many(most)
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError) as error:
        raise RefusedError(400, f"an image is not valid base64: {error}") from error


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict) and value.keys() == {"image"}:
        value = {"images": [value["image"]]}
    if isinstance(value, dict) and value.keys() == {"images"}:
        texts = value["images"]
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return texts
    raise RefusedError(
        400, 'the JSON is not {"image": BASE64} or {"images": [BASE64, ...]}, and nothing else'
    )
