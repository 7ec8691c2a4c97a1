"""Requests that no client in its right mind sends; none has a readable image."""

import base64
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random

from tests.fuzz.images_support import SIGNATURE, png, png_chunk

Request = tuple[bytes, dict[str, str], str]

_TYPES = (
    *("image/png", "image/jpeg", "application/json", "application/octet-stream", "text/plain"),
    *("multipart/form-data", "multipart/form-data; boundary=b", "multipart/form-data; boundary="),
    *("", ";", "image/", "application/json; charset=utf-16", 'multipart/form-data; boundary="b'),
    "multipart/form-data; boundary=" + "b" * 300,
)


def hostile(count: int, seed: int = 0) -> Iterator[Request]:
    """Yield so many: body, headers, query."""
    random = Random(seed)
    kinds: tuple[Callable[[Random], tuple[bytes, str]], ...] = (
        _noise,
        _image,
        _form,
        _json,
        _trap,
        _path,
    )
    for _ in range(count):
        body, kind = random.choice(kinds)(random)
        if random.random() < 0.1:
            kind = random.choice(_TYPES)
        headers = {"content-type": kind}
        query = random.choice(["", "", "", "?top_k=-1", "?heat_map=perhaps", "?top_k=" + "9" * 99])
        yield body, headers, query


def _noise(random: Random) -> tuple[bytes, str]:
    return random.randbytes(random.choice([0, 1, 20, 5000])), random.choice(_TYPES)


def _image(random: Random) -> tuple[bytes, str]:
    """The first half of an image, with some of its bytes changed."""
    rows = zlib.compress(random.randbytes(65 * 64))
    whole = SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0))
    whole += png_chunk(b"IDAT", rows)
    half = bytearray(whole[: random.randrange(len(whole) // 2)])
    for _ in range(random.randrange(3)):
        if half:
            half[random.randrange(len(half))] = random.randrange(256)
    return bytes(half), random.choice(_TYPES[:4])


def _form(random: Random) -> tuple[bytes, str]:
    """Pieces of a form in any order."""
    pieces = (
        *(b"--b\r\n", b"--b--\r\n", b"--b", b"\r\n", b"\r\n\r\n", b"\n", b"\0", b"--"),
        b'Content-Disposition: form-data; name="image"; filename="../../etc/passwd"\r\n',
        *(b"Content-Disposition: form-data\r\n", b"x: " + b"y" * 5000 + b"\r\n", b"no image"),
        *(b"Content-Transfer-Encoding: base64\r\n", b"\r\n--" * 100),
    )
    body = b"".join(random.choice(pieces) for _ in range(random.randrange(12)))
    start = b"--b\r\n" if random.random() < 0.7 else b""
    return start + body, "multipart/form-data; boundary=b"


def _json(random: Random) -> tuple[bytes, str]:
    text = base64.b64encode(random.randbytes(random.randrange(60))).decode()
    value = random.choice(
        [
            *({"image": text}, {"images": [text] * random.randrange(40)}, {"image": None}, None),
            *({"images": [[text]]}, {"image": text[:-1] + "*"}, [text], text, 10**400, {}),
            *({"url": "http://127.0.0.1/"}, {"image": "file:///etc/passwd"}, {"image": "é"}),
        ]
    )
    body = json.dumps(value).encode()
    if random.random() < 0.2:
        body = random.choice([b"[" * 50_000, b'{"image":' * 5000, b"NaN", b"\xff\xfe", body[:-1]])
    return body, "application/json"


def _trap(random: Random) -> tuple[bytes, str]:
    """Small files that claim to be large."""
    body = random.choice(
        [
            png(30_000, 30_000),
            png(1, 100_000),
            png(0, 0),
            b"P6 100000 100000 255 ",
            b"P5 9999999999999 1 255 ",
            b"BM"
            + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, *[0] * 6),
            b"\xff\xd8\xff\xe0" + b"\xff\xe1\xff\xff" * 1000,
            b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 100,
        ]
    )
    return body, "image/png"


def _path(random: Random) -> tuple[bytes, str]:
    body = random.choice([b"/etc/passwd", b"http://127.0.0.1/", b"file:///", b"data:image/png,x"])
    return body, random.choice(_TYPES[:4])
