"""The report in a browser: no sideways scrolling on a phone, no errors, printable."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report.test_report import photos, run  # noqa: F401 - fixtures

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium"),
]

#: Shows a page in frames of several widths, and notes how wide each page wants to be.
FRAMES = """<!doctype html><body><script>
addEventListener('load', () => {
  for (const frame of document.querySelectorAll('iframe'))
    frame.dataset.needs = frame.contentDocument.documentElement.scrollWidth;
});
</script>%s</body>"""


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=True, timeout=120
    )


def test_it_fits_into_a_phone_and_logs_nothing(run, tmp_path):  # noqa: F811
    report = html.escape((run / "report.html").read_text(encoding="utf-8"))
    frames = "".join(
        f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{report}"></iframe>'
        for width in (320, 768, 1280)
    )
    page = tmp_path / "frames.html"
    page.write_text(FRAMES % frames, encoding="utf-8")
    shown = chromium("--virtual-time-budget=10000", "--dump-dom", page.as_uri())
    needs = [int(width) for width in re.findall(r'data-needs="(\d+)"', shown.stdout)]
    assert len(needs) == 3
    assert all(needed <= width for needed, width in zip(needs, (320, 768, 1280), strict=True))
    assert "CONSOLE" not in shown.stderr


def test_it_is_printed(run, tmp_path):  # noqa: F811
    printed = tmp_path / "report.pdf"
    chromium(f"--print-to-pdf={printed}", Path(run / "report.html").as_uri())
    assert printed.read_bytes().startswith(b"%PDF")
