"""Measure how fast one core makes training images: decode, augment, normalise.

python bench/data_path.py --data photos

Without --data the photos are generated. Every way takes the same photos in the same process, in
turn, `--rounds` times; the figures are medians, in images per second of CPU time of one thread, and
ratios to the first way: each file opened by Pillow, transformed by torchvision.transforms.v2
and normalised an image at a time. `kept`: images that were decoded before, in a memory-mapped file;
`for a GPU`: crops that it will resize, mirror and normalise itself.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from zoo import allocator
from zoo.backbone import Preprocess
from zoo.data.dataset import Batches, ImageDataset, eval_loader, raising, train_loader
from zoo.data.decoded import DecodedImages, content_keys
from zoo.data.image import read_image
from zoo.data.sample import Sample
from zoo.data.sources.layout import images_in
from zoo.data.transforms import eval_transform, to_input, train_transform
from zoo.machine.device import place_images

BATCH = 32


class MappedImages:
    """DecodedImages in one memory-mapped file, as a store keeps them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.places: dict[bytes, tuple[int, tuple[int, ...]]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self.places

    def get(self, key: bytes) -> np.ndarray:
        offset, shape = self.places[key]
        return self.map[offset : offset + int(np.prod(shape))].reshape(shape)

    def append(self, items) -> None:
        with self.file.open("ab") as out:
            for key, array in items:
                self.places[key] = (out.tell(), array.shape)
                out.write(array.tobytes())
        self.map = np.memmap(self.file, dtype=np.uint8, mode="r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of photos; default: generated ones")
    parser.add_argument("--photos", type=int, default=200, help="at most so many")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    allocator.tune()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = images_in(args.data or generated(Path(folder) / "photos", args.photos))
        samples = [Sample(name=str(f), labels=("",), file=f) for f in files[: args.photos]]
        preprocess = Preprocess(size=args.size)
        ways = {
            "v2 an image, light": lambda: one_by_one(samples, preprocess, "light"),
            "v2 an image, strong": lambda: one_by_one(samples, preprocess, "strong"),
            "v2 an image, eval": lambda: one_by_one(samples, preprocess, "none"),
        }
        kept: dict[str, int] = {}
        keys = content_keys(samples)
        for augment in ("light", "strong"):
            transform = train_transform(preprocess, augment, True)
            store = MappedImages(Path(folder) / augment)
            for name, decoded in {
                f"zoo {augment}, files": DecodedImages(samples, transform.prepare),
                f"zoo {augment}, kept": DecodedImages(
                    samples, transform.prepare, store=store, keys=keys
                ),
            }.items():
                decoded.fill()
                images = ImageDataset(decoded, augment=transform.augment)
                batches, _ = train_loader(images, batch_size=BATCH, seed=0, workers=0)
                ways[name] = lambda batches=batches: through(batches, preprocess)
            kept[augment] = store.file.stat().st_size // len(samples)
        prepare = eval_transform(preprocess).prepare
        store = MappedImages(Path(folder) / "eval")
        for name, decoded in {
            "zoo eval, files": DecodedImages(samples, prepare),
            "zoo eval, kept": DecodedImages(samples, prepare, store=store, keys=keys),
        }.items():
            decoded.fill()
            batches = eval_loader(ImageDataset(decoded), batch_size=BATCH)
            ways[name] = lambda batches=batches: through(batches, preprocess)
        kept["eval"] = store.file.stat().st_size // len(samples)
        report(ways, len(samples), args.rounds)
        for name, size in kept.items():
            print(f"a kept base, {name}: {size / 1000:.0f} kB")


def report(ways: dict[str, Callable[[], None]], images: int, rounds: int) -> None:
    """Time every way in turn, and print medians and ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.process_time()
            way()
            seconds[name].append(time.process_time() - started)
    rates = {name: images / statistics.median(times) for name, times in seconds.items()}
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        low, high = images / max(seconds[name]), images / min(seconds[name])
        print(f"{name:26} {rate:7.0f} images/s/core ({low:.0f} to {high:.0f})  x{rate / first:.1f}")


def through(batches: Batches, preprocess: Preprocess) -> None:
    for pixels, _ in raising(batches):
        to_input(pixels, preprocess, torch.device("cpu"))


def one_by_one(samples: list[Sample], preprocess: Preprocess, augment: str) -> None:
    """The usual way, batches put into the layout of the model as ours are."""
    interpolation = InterpolationMode(preprocess.interpolation)
    size = preprocess.height_width
    scale = (0.5 if augment == "light" else 0.2, 1.0)
    crop = v2.RandomResizedCrop(size, scale=scale, interpolation=interpolation)
    steps = {
        "light": [crop, v2.RandomHorizontalFlip()],
        "strong": [crop, v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()],
        "none": [v2.Resize(preprocess.resize[0], interpolation), v2.CenterCrop(size)],
    }[augment]
    steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    steps += [v2.Normalize(list(preprocess.mean), list(preprocess.std))]
    steps += [v2.RandomErasing(p=0.1)] if augment == "strong" else []
    transform = v2.Compose(steps)
    for start in range(0, len(samples), BATCH):
        batch = [transform(read_image(s.image)) for s in samples[start : start + BATCH]]
        place_images(torch.stack(batch), torch.device("cpu"))


def generated(folder: Path, count: int) -> Path:
    """JPEGs of 500 x 375 pixels, smooth with some noise, of about 50 kB."""
    folder.mkdir()
    for seed in range(count):
        draw = np.random.default_rng(seed)
        coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
        noisy = (smooth + draw.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{seed}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
