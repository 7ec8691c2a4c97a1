"""The notebooks of the docs run as they stand; in notebooks, objects of zoo are shown as tables."""

import io
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import zoo
from tests.conftest import QUICK
from tests.test_docs import ROOT, script

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_as_it_stands(file, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(file, as_version=4)
    folder = {"metadata": {"path": str(Path.cwd())}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert outputs
    texts = [output.text for output in outputs if output.output_type == "stream"]
    # Codes of a terminal and overwritten lines would be shown as they are.
    assert not any("\x1b" in text or "\r" in text for text in texts)


def test_notebooks_are_kept_without_outputs_and_have_a_page():
    pages = script("notebooks_pages")
    assert len(NOTEBOOKS) >= 4
    nav = (ROOT / "mkdocs.yml").read_text()
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in code)
        page = pages.page(file)
        assert page.startswith("# ")
        assert page.count("```python\n") == len(code)
        assert f"notebooks/{file.stem}.md" in nav


@pytest.mark.medium
def test_plans_and_predictions_are_shown_as_tables(split_photos, run):
    plans = []
    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(split_photos, out="<b>run", listen=until_plan(plans), **QUICK)
    shown = plans[0]._repr_html_()
    assert shown.count("<table>") == 2
    assert "&lt;b&gt;run" in shown
    assert "<b>" not in shown
    photos = sorted((split_photos / "val").rglob("*.png"))
    found = run.predict(photos)
    assert found._repr_html_().count("<tr>") == 1 + len(photos)
    assert found[0]._repr_html_().count("<tr>") == 2
    assert found == list(found)
    odd = Path("<i>.png")
    odd.write_bytes(photos[0].read_bytes())
    assert "&lt;i&gt;.png" in run.predict(odd)._repr_html_()


def until_plan(plans):
    def listen(event):
        if isinstance(event, zoo.Plan):
            plans.append(event)
            raise KeyboardInterrupt

    return listen


@pytest.mark.medium
def test_the_console_prints_plain_lines_where_there_is_no_terminal(photos, monkeypatch):
    """As in a notebook, in whose output codes of a terminal would be seen."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    listen = zoo.TrainingConsole()
    run = zoo.finetune(photos, out="run", listen=listen, **QUICK, train="finetune")
    text = out.getvalue() + err.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert any(line[:1] == ["1"] for line in lines)
    assert all(name in text for name in run.class_names)
