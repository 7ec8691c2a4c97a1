"""A hook of mkdocs that adds a page for each notebook in docs/notebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; mkdocs calls this with the files of the docs folder."""
    from mkdocs.structure.files import File

    for notebook in NOTEBOOKS:
        name = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, name, content=page(notebook)))
    return files


def page(notebook: Path) -> str:
    """Return a notebook as Markdown: its text and its code, without outputs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, *rest = parts
    link = f"[Download this notebook]({notebook.name}), which the tests of zoo run as it stands."
    return "\n\n".join([title, link, *rest]) + "\n"
