"""Which exported formats work for which backbones: the table of docs/exports.md.

One backbone of each class of timm and torchvision and some of transformers, with random weights, is
written in each format, opened by the format's runtime and compared with torch.

    python bench/exports.py
    python bench/exports.py torchvision/resnet18 timm/vit_tiny_patch16_224 --formats onnx,litert
    python bench/exports.py --render

Every pair of backbone and format is a line of bench/exports.jsonl; what is there already is not
measured again, so a sweep that was interrupted continues.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "bench" / "exports.jsonl"
PAGE = ROOT / "docs" / "exports.md"
START, END = "<!-- bench/exports.py writes from here -->", "<!-- to here -->"

FORMATS = ("onnx", "openvino", "torch-export", "executorch", "litert")

#: The file with one backbone of timm of each class.
ONE_PER_CLASS = ROOT / "tests" / "backbones" / "one_per_class.txt"

TRANSFORMERS = ("beit", "convnext", "deit", "dinov2", "mobilevit", "resnet", "swin", "vit")

#: Largest difference of two logits, relative to the largest logit, that counts as equal.
TOLERANCE = 1e-3

CLASSES = 5


@dataclass(frozen=True, kw_only=True)
class Result:
    """One backbone in one format.

    Attributes:
        backbone: Full name.
        format: Name of the format.
        difference: Largest difference of two logits, relative to the largest one; None if it fails.
        problem: Why it fails; empty if it does not.
    """

    backbone: str
    format: str
    difference: float | None = None
    problem: str = ""

    @property
    def works(self) -> bool:
        return self.difference is not None and self.difference <= TOLERANCE


def names() -> list[str]:
    """The backbones of the sweep."""
    from zoo import plugins

    lines = ONE_PER_CLASS.read_text(encoding="utf-8").splitlines()
    timm = [f"timm/{line.split()[0]}" for line in lines if line and not line.startswith("#")]
    found = {"torchvision": smallest_of_each_module(), "timm": timm}
    declared = plugins.load("transformers").backbones
    prefixes = tuple(f"transformers/{kind}" for kind in TRANSFORMERS)
    found["transformers"] = sorted(name for name in declared if name.startswith(prefixes))
    return [name for group in found.values() for name in group]


def smallest_of_each_module() -> list[str]:
    """The torchvision backbone with the fewest operations of each module, which has one class."""
    from torchvision.models import get_model_builder  # noqa: TID251

    from zoo import plugins

    found: dict[str, str] = {}
    backbones = plugins.load("torchvision").backbones
    for name in sorted(backbones, key=lambda name: backbones[name].macs or math.inf):
        found.setdefault(get_model_builder(name.rpartition("/")[2]).__module__, name)
    return list(found.values())


def measure(name: str, form: str) -> Result:
    """Write one backbone in one format, and compare."""
    import numpy as np

    import zoo
    from zoo import plugins
    from zoo.engines.model import ExportableModel
    from zoo.engines.runtime import calling, load_exported

    exporter = plugins.declared_as("zoo_exporters", form)
    try:
        torch.manual_seed(0)
        backbone = plugins.get(name)
        model = ExportableModel(zoo.build(backbone, CLASSES, weights="none"), backbone.preprocess)
        example = model.example()
        images = torch.randint(0, 256, (3, *example.shape[1:]), dtype=torch.uint8)
        with torch.inference_mode():
            vanished = model(images).abs().max() < 1e-30
        if vanished:
            estimate_statistics(model, images)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"a{exporter.suffix}"
            with calling(form, exporter):
                exporter.write(model, example, file, {})
            compute = load_exported(form, exporter, file, CLASSES)
            found = np.concatenate([compute(images.numpy()), compute(images[:1].numpy())])
        with torch.inference_mode():
            expected = torch.cat([model(images), model(images[:1])]).numpy()
    except Exception as error:  # noqa: BLE001 - a failure of any kind is a result
        folders = rf"{re.escape(tempfile.gettempdir())}/|\S*/site-packages/"
        problem = " ".join(re.sub(folders, "", str(error)).split())[:300]
        return Result(backbone=name, format=form, problem=problem)
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    return Result(backbone=name, format=form, difference=difference)


def estimate_statistics(model: nn.Module, images: Tensor) -> None:
    """Replace the statistics of batch norms by those of these images.

    The random weights of MobileViT in transformers are so small that, without this, all activations
    vanish.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(images)
    model.eval()


def read(file: Path) -> list[Result]:
    """The results of a file of JSON lines."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Result(**json.loads(line)) for line in lines]


def sweep(backbones: Iterable[str], formats: Sequence[str], records: Path) -> None:
    """Measure the pairs that the file lacks, and append them."""
    there = {(result.backbone, result.format) for result in read(records)}
    for name in backbones:
        for form in formats:
            if (name, form) in there:
                continue
            result = measure(name, form)
            with records.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            print(name, form, result.problem or f"{result.difference:.1e}", flush=True)


def table(results: Sequence[Result]) -> str:
    """The results in Markdown, a row for each backbone, and the reasons of failures."""
    order = {name: n for n, name in enumerate(names())}
    by_name: dict[str, dict[str, Result]] = {}
    for result in sorted(results, key=lambda r: (order[r.backbone], FORMATS.index(r.format))):
        by_name.setdefault(result.backbone, {})[result.format] = result
    formats = [form for form in FORMATS if any(form in found for found in by_name.values())]
    lines = [f"| backbone | {' | '.join(formats)} |", "|---" * (1 + len(formats)) + "|"]
    notes = []
    for name, found in by_name.items():
        cells = [_cell(found.get(form)) for form in formats]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
        notes += [f"- `{name}`, {r.format}: `{r.problem}`" for r in found.values() if r.problem]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _cell(result: Result | None) -> str:
    if result is None:
        return "not measured"
    if result.difference is None:
        return "no"
    return f"{'yes' if result.works else 'differs'}, {result.difference:.0e}"


def render(results: Sequence[Result], page: Path = PAGE) -> None:
    """Rewrite the page between its markers."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n\n{table(results)}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbones", nargs="*", help="default: those of the sweep")
    parser.add_argument("--records", type=Path, default=RECORDS, help="default: %(default)s")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--render", action="store_true", help="only rewrite docs/exports.md")
    given = parser.parse_args()
    if not given.render:
        sweep(given.backbones or names(), given.formats.split(","), given.records)
    else:
        render(read(given.records))


if __name__ == "__main__":
    main()
