"""Inputs that search for the branches of a parser, by atheris: python guided.py TARGET OPTIONS."""

import contextlib
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

warnings.filterwarnings("ignore", module=r"PIL\.")
with atheris.instrument_imports(include=["zoo"], enable_loader_override=False):
    from zoo.data.image import decoded, open_image
    from zoo.errors import DataError, RecipeError, RunError
    from zoo.recipe import make_recipe
    from zoo.runs.parse import read_head
    from zoo.weights.header import read_header


def image(file: Path) -> None:
    picture = open_image(file)
    # Decoding is Pillow's own, and slow at every size that is let through.
    if picture.width * picture.height < 2**16:
        decoded(picture, file)


#: What is called with the file, and all that it may raise.
TARGETS = {
    "header": (read_header, ValueError),
    "model": (read_head, RunError),
    "recipe": (make_recipe, RecipeError),
    "image": (image, DataError),
}

if __name__ == "__main__":
    call, allowed = TARGETS[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input.png"

        def once(data: bytes) -> None:
            file.write_bytes(data)
            with contextlib.suppress(allowed):
                call(file)

        atheris.Setup(sys.argv, once)
        atheris.Fuzz()
