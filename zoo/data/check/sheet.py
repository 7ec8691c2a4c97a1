"""Contact sheet of suspected labels: one HTML file with thumbnails, which needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from zoo.data.image import image_from_bytes
from zoo.data.sample import Sample
from zoo.errors import DataError
from zoo.io.text import printable

#: Longest side of a thumbnail in pixels.
THUMBNAIL = 200

#: Maximum number of thumbnails, so that the file can be mailed.
MOST = 300

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 1rem;
  list-style: none; padding: 0; }
li { border: 1px solid #8888; border-radius: 6px; padding: .6rem; break-inside: avoid; }
img { display: block; width: 100%; height: 180px; object-fit: contain; }
p { margin: .4rem 0 0; overflow-wrap: anywhere; }
.path { font-size: .85em; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
<ol>
{% for card in cards %}<li>
<img src="data:image/jpeg;base64,{{ card.thumbnail }}" alt="{{ card.path }}">
{% if card.change %}<p>{{ card.given or "no label" }}: <strong>{{ card.change }}</strong></p>
{% else %}<p><s>{{ card.given }}</s> &rarr; <strong>{{ card.suggested or "no label" }}</strong></p>
{% endif -%}
<p>{{ "%.1f" | format(100 * card.probability) }} % against
{{ "%.1f" | format(100 * card.score) }} %</p>
<p class="path">{{ card.path }}</p>
</li>
{% endfor %}</ol>
</body>
</html>
"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """An image on the sheet; `score` is the probability of the given label.

    `change` says which of several labels should be added or removed; empty: the label should be
    `suggested`.
    """

    sample: Sample
    given: str
    suggested: str
    probability: float
    score: float
    change: str = ""


def write_sheet(file: Path, cards: Sequence[Card], *, title: str, summary: str) -> None:
    """Write a page with a thumbnail of each image, at most `MOST`.

    Raises:
        DataError: An image can't be read, or the file can't be written.
    """
    from jinja2 import Environment

    def shown(card: Card) -> dict[str, object]:
        return {
            "thumbnail": _thumbnail(card.sample),
            "path": printable(card.sample.name),
            "given": printable(card.given),
            "suggested": printable(card.suggested),
            "change": printable(card.change),
            "probability": card.probability,
            "score": card.score,
        }

    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(shown, cards[:MOST]))
    if len(cards) > MOST:
        summary += f" The first {MOST} of {len(cards)} are shown."
    page = Environment(autoescape=True).from_string(_PAGE)
    text = page.render(title=printable(title), summary=printable(summary), cards=rows)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"can't write `html={file}`: {error.strerror or error}") from error


def _thumbnail(sample: Sample) -> str:
    image = image_from_bytes(sample.read(), sample.where, decode_at=THUMBNAIL)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode("ascii")
