"""The files that run an export without zoo: predict.py and a Dockerfile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from string import Template

from zoo.backbone import Preprocess
from zoo.data.image import SAMPLES_PER_PIXEL
from zoo.export.options import ExportOptions
from zoo.exporter import Exporter
from zoo.runs.read import Run
from zoo.tasks.thresholds import THRESHOLD

_SCRIPT = Template('''\
"""Classify images without zoo: python SCRIPT IMAGE... prints a line of JSON for each.

pip install $requires
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FILE = Path(__file__).with_name($file)

$runtime

names = json.loads(metadata["class_names"])
${thresholds}for path in sys.argv[1:]:
$decode$resize    (scores,) = compute($pixels[None])
$probabilities
    found = {"path": path, "label": names[p.argmax()], "probability": float(p.max())}
$labels    print(json.dumps(found, ensure_ascii=False))
''')

_DOCKERFILE = Template("""\
# docker build -f $dockerfile -t classify .
# docker run -v "$$PWD:/images:ro" classify /images/photo.jpg
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1
RUN pip install $requires
COPY $copied
ENTRYPOINT $command
""")


def script_file(out: Path) -> Path:
    """Return the path of the script beside an exported file."""
    return out.with_name(f"{out.name}.predict.py")


def docker_file(out: Path) -> Path:
    """Return the path of the Dockerfile beside an exported file."""
    return out.with_name(f"{out.name}.Dockerfile")


def scripts(run: Run, exporter: Exporter, out: Path, options: ExportOptions) -> dict[Path, str]:
    """Return the texts of the files that run an export, by path; none without a `script`."""
    if exporter.script is None:
        return {}
    requires = " ".join(_pinned(["numpy", "pillow", *exporter.requires]))
    preprocess = run.info.preprocess
    several = not run.task.exclusive
    predict = script_file(out)
    text = _SCRIPT.substitute(
        requires=requires,
        file=repr(out.name),
        runtime=exporter.script.strip() + "\n",
        decode=_indented(_decode(preprocess)),
        resize="" if options.with_resize else _indented(_resize(preprocess)),
        pixels=_pixels(preprocess, options),
        probabilities=_indented(_probabilities(options, several)).rstrip(),
        thresholds=_thresholds(run) if several else "",
        labels=_indented(_labels()) if several else "",
    )
    copied = [file.name for file in (*exporter.files(out), predict)]
    docker = _DOCKERFILE.substitute(
        dockerfile=json.dumps(docker_file(out).name),
        requires=requires,
        copied=json.dumps([*copied, "/app/"]),
        command=json.dumps(["python", f"/app/{predict.name}"]),
    )
    return {predict: text, docker_file(out): docker}


def _pinned(names: Sequence[str]) -> list[str]:
    """Return requirements of the installed versions, with which the file was compared."""
    found = []
    for name in names:
        version = None
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(name).partition("+")[0]
        found.append(name if version is None else f"{name}=={version}")
    return found


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.strip("\n").splitlines())


def _decode(preprocess: Preprocess) -> str:
    """Return code that opens and converts `image` as `zoo.data.image` does.

    Of TIFFs that it opens by path, Pillow may lose the orientation: it maps them into memory.
    """
    if preprocess.channels == 4:
        return f"""
image = Image.open(io.BytesIO(Path(path).read_bytes()))
if image.mode == "RGB" and getattr(image, "tag_v2", {{}}).get({SAMPLES_PER_PIXEL}) == 4:
    image._mode = "RGBX"  # Pillow would drop the fourth band of this TIFF
image = ImageOps.exif_transpose(image)
if image.mode != "RGBX":
    if not image.has_transparency_data:
        raise ValueError(f"{{path}}: its mode is {{image.mode}}, and four channels are needed")
    image = Image.merge("RGBX", image.convert("RGBA").split())"""
    grey = '.convert("L")' if preprocess.channels == 1 else ""
    return f"""
image = ImageOps.exif_transpose(Image.open(io.BytesIO(Path(path).read_bytes())))
if image.mode == "F" or image.mode.startswith("I"):  # more than 8 bits
{_indented(_deep(preprocess))}if image.has_transparency_data:
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
image = image.convert("RGB"){grey}"""


def _deep(preprocess: Preprocess) -> str:
    """Return code that converts an `image` of more than 8 bits."""
    if preprocess.value_range is not None:
        low, high = preprocess.value_range
        find = "levels = np.asarray(image, np.float64)"
        share = f"(levels - {low}) / {high - low}"
    else:
        # All of a float image may be masked: the comparisons with its `high` are false then.
        white = '1 if image.mode == "F" else 255 if image.mode == "I" and high <= 255 else 65535'
        find = f"""
levels = np.ma.masked_invalid(np.asarray(image, np.float64))
low, high = min(0, levels.min()), levels.max()
high = high if low < 0 else max({white}, high)"""
        share = "(levels.data - low) / ((high - low) or 1)"
    return f"""{find}
image = Image.fromarray(np.nan_to_num({share} * 255).round().clip(0, 255).astype(np.uint8))"""


def _resize(preprocess: Preprocess) -> str:
    """Return code that resizes and crops `image` as `zoo.data.prepare` does."""
    (high, wide), (height, width) = preprocess.resize, preprocess.height_width
    mode = preprocess.crop_mode
    lines = []
    if mode == "squash":
        size = f"({wide}, {high})"
    elif mode == "center" and high == wide:
        size = f"[int({high} * side / min(image.size)) for side in image.size]"
    else:
        extreme = "max" if mode == "border" else "min"
        lines = [f"shrink = {extreme}(image.height / {high}, image.width / {wide})"]
        size = "[round(side / shrink) for side in image.size]"
    lines.append(
        f"image = image.resize({size}, Image.Resampling.{preprocess.interpolation.upper()})"
    )
    if mode == "border":
        colour = tuple(round(255 * m) for m in preprocess.mean)
        lines += [
            f"x, y = max(0, {width} - image.width), max(0, {height} - image.height)",
            f"image = ImageOps.expand(image, (x // 2, y // 2, x - x // 2, y - y // 2), {colour})",
        ]
    if high >= height and wide >= width and mode != "border":
        sides = f"(image.width - {width}, image.height - {height})"
        lines.append(f"left, top = (round(rest / 2) for rest in {sides})")
    else:
        lines += [
            f"edges = [(image.width, {width}), (image.height, {height})]",
            "left, top = (round((s - c) / 2) if s >= c else -((c - s) // 2) for s, c in edges)",
        ]
    lines.append(f"image = image.crop((left, top, left + {width}, top + {height}))")
    return "\n".join(lines)


def _pixels(preprocess: Preprocess, options: ExportOptions) -> str:
    array = "np.array(image)"  # A copy: torch warns of an array that is read-only.
    if preprocess.channels == 1:
        array = f"{array}[..., None]"
    return array if options.with_resize else f"np.ascontiguousarray({array}.transpose(2, 0, 1))"


def _probabilities(options: ExportOptions, several: bool) -> str:
    if options.probabilities:
        return "p = scores"
    if several:
        return "p = 1 / (1 + np.exp(-scores))"
    return "p = np.exp(scores - scores.max())\np /= p.sum()"


def _thresholds(run: Run) -> str:
    if run.info.thresholds:
        return 'thresholds = json.loads(metadata["thresholds"])["by_class"]\n'
    return f"thresholds = [{THRESHOLD}] * len(names)\n"


def _labels() -> str:
    return 'found["labels"] = [names[n] for n in (-p).argsort() if p[n] >= thresholds[n]]'
