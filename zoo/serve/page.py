"""The page at `/`: one HTML document that needs no other file and no other server."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from zoo.io.text import count, printable
from zoo.runs.read import Run
from zoo.serve import Settings

_HERE = Path(__file__).parent


def page(run: Run, settings: Settings) -> str:
    """Return the page of a run."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment.get_template("page.html").render(
        name=run.path.resolve().name,
        backbone=run.info.backbone,
        classes=count(len(run.class_names), "class", "classes"),
        megabytes=f"{settings.max_bytes // 10**5 / 10:g}",
        css=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
    )


def content_security_policy(html: str) -> str:
    """Return a policy that permits the scripts and styles of a page, and nothing from elsewhere."""
    return (
        f"default-src 'none'; script-src {_hashes(html, 'script')}; "
        f"style-src {_hashes(html, 'style')}; img-src data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(html: str, tag: str) -> str:
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (hashlib.sha256(each.encode()).digest() for each in contents)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
