"""Images for the tests of a data source."""

from __future__ import annotations

from pathlib import Path

#: Classes and their colours.
_COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}

#: Images of each class.
_PER_CLASS = 8


def write_images(folder: str | Path) -> Path:
    """Write 24 small PNG images of three classes: `FOLDER/CLASS/N.png`.

    Args:
        folder: A folder, created if it is missing.

    Returns:
        The folder.
    """
    from PIL import Image

    folder = Path(folder)
    for name, colour in _COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(_PER_CLASS):
            image = Image.new("RGB", (48, 40), colour)
            # No two images are alike, or copies would be left out of training.
            image.paste((0, 0, 0), (5 * n, 4 * n, 5 * n + 8, 4 * n + 8))
            image.save(folder / name / f"{n}.png")
    return folder
