"""Check that an HTML page runs nothing and loads nothing."""

from __future__ import annotations

from html.parser import HTMLParser

#: Elements of the report's page and of its plots.
_ELEMENTS = frozenset(
    {
        *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section"),
        *("h1", "h2", "h3", "p", "ul", "li", "a", "div", "span", "strong", "br", "small", "code"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "img"),
        *("details", "summary", "svg", "g", "path", "defs", "use", "text", "tspan", "clippath"),
        *("rect", "circle", "line", "polyline", "polygon"),
    }
)

#: Attributes that refer to something, with the beginnings of harmless values.
_REFERENCES = {
    "href": ("#",),
    "xlink:href": ("#",),
    "src": ("data:image/webp;base64,",),
}

#: Values of `http-equiv` that the page may have.
_HTTP_EQUIV = frozenset({"content-security-policy"})


class _Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.model: str | None = None
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _ELEMENTS:
            raise ValueError(f"it has an element that zoo doesn't write: {tag[:40]}")
        values = {name: value or "" for name, value in attrs}
        for name, value in values.items():
            allowed = _REFERENCES.get(name)
            if name.startswith("on") or (allowed is not None and not value.startswith(allowed)):
                raise ValueError(f"it has a {tag} that runs or loads something: {name}")
            if name in ("srcset", "action", "formaction", "background", "poster", "ping"):
                raise ValueError(f"it has a {tag} that loads something: {name}")
        for name in ("style", "clip-path", "fill", "stroke", "mask", "filter"):
            _check_style(values.get(name, ""))
        if values.get("http-equiv", "").lower() not in ("", *_HTTP_EQUIV):
            raise ValueError(f"it has a meta element that acts: {values['http-equiv'][:40]}")
        if tag == "meta" and values.get("name") == "zoo-model":
            self.model = values.get("content")
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            _check_style(data)


def _check_style(text: str) -> None:
    lowered = text.lower()
    if "@import" in lowered or "\\" in lowered or "url(" in lowered.replace("url(#", ""):
        raise ValueError("it has a style that loads something")


def check_harmless(text: str) -> str | None:
    """Check that a report's page has no scripts and refers to nothing outside itself.

    Returns:
        The SHA-256 of the model that it is about; None if it names none.

    Raises:
        ValueError: It has elements or attributes that zoo does not write.
    """
    checker = _Checker()
    checker.feed(text)
    checker.close()
    return checker.model
