"""Small public image sets of many kinds, each laid out as OUT/NAME/{train,val,test}/CLASS/FILE.

    python bench/sets.py --raw RAW --out OUT [--only NAME]

Nothing is downloaded. What each set needs below RAW is defined by its source and raw (`--list`
prints them): the named paths of a GitHub repository, at RAW/FOLDER with their paths kept. With a
clone:

    mkdir RAW/FOLDER && git -C CLONE archive HEAD PATH ... | tar -x -C RAW/FOLDER

The split of an image is determined by a hash of its name, so the same RAW always gives the same
split, independent of the order of files. Pictures of one group (a patient, a house, a track of
video frames) never are in two splits, and of pictures that look the same only one is used.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import math
import wave
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SPLITS = ("train", "val", "test")
SEED = 0
LONGEST = 256
ALIKE = 8.0  # mean squared difference of 16-pixel grey thumbnails
IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff"}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of a raw set.

    Attributes:
        label: Its class.
        name: The same on every machine and unique in its class; it determines the split.
        image: Where it is, or the image itself.
        group: Pictures of one group go to one split. Every picture is its own group if empty.
        splits: Where the set's makers allow it.
    """

    label: str
    name: str
    image: Path | Image.Image
    group: str = ""
    splits: tuple[str, ...] = SPLITS


Sizes = tuple[int, int, int]
Split = dict[str, dict[str, list[Picture]]]


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set and how much of it is used.

    Attributes:
        name: Of its folder.
        kind: What it shows, in a word or three.
        source: GitHub owner/name or a Python package.
        licence: As its source says, "not stated" if it doesn't.
        raw: What to put below RAW.
        image_size: Pixels a side to train at.
        sizes: Images a class in train, val and test, for all classes or by class.
        pictures: Yields all images of the set, given RAW.
        mirror_sensitive: A mirrored image may be of another class, or of none.
        png: Keep every pixel: for tiny images and line art.
        per_group: At most so many pictures of a group are used.
        note: What to know before believing a result.
    """

    name: str
    kind: str
    source: str
    licence: str
    raw: str
    image_size: int
    sizes: Sizes | Mapping[str, Sizes]
    pictures: Callable[[Path], Iterable[Picture]]
    mirror_sensitive: bool = False
    png: bool = False
    per_group: int = 1
    note: str = ""


# Readers: RAW in, pictures out.


def _image_files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGES)


def _folders(
    *roots: str, labels: Mapping[str, str] | None = None
) -> Callable[[Path], Iterator[Picture]]:
    """A reader of ROOT/CLASS/IMAGE; with labels, only these folders, by another class name."""

    def read(raw: Path) -> Iterator[Picture]:
        for root in roots:
            for folder in sorted(f for f in (raw / root).iterdir() if f.is_dir()):
                if labels is not None and folder.name not in labels:
                    continue
                label = folder.name if labels is None else labels[folder.name]
                for file in _image_files(folder):
                    yield Picture(label=label, name=str(file.relative_to(raw / root)), image=file)

    return read


def _split_folders(root: str) -> Callable[[Path], Iterator[Picture]]:
    """A reader of ROOT/SPLIT/CLASS/IMAGE that keeps the splits."""

    def read(raw: Path) -> Iterator[Picture]:
        for split in SPLITS:
            for folder in sorted(f for f in (raw / root / split).iterdir() if f.is_dir()):
                for file in _image_files(folder):
                    yield Picture(
                        label=folder.name,
                        name=f"{split}/{folder.name}/{file.name}",
                        image=file,
                        splits=(split,),
                    )

    return read


def _digits(raw: Path) -> Iterator[Picture]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        image = Image.fromarray(np.clip(pixels * 16, 0, 255).astype(np.uint8))
        image = image.resize((64, 64), Image.Resampling.BICUBIC)
        yield Picture(label=str(label), name=f"{index:04}", image=image)


def _characters(raw: Path) -> Iterator[Picture]:
    """100 of Omniglot's small background characters, each drawn by 20 people."""
    with zipfile.ZipFile(raw / "omniglot/python/images_background_small1.zip") as archive:
        files = sorted(n for n in archive.namelist() if n.endswith(".png"))
        characters = sorted(
            {n.rsplit("/", 1)[0] for n in files}, key=lambda c: _rank("omniglot", c)
        )
        kept = set(characters[:100])
        for file in files:
            character = file.rsplit("/", 1)[0]
            if character in kept:
                image = Image.open(io.BytesIO(archive.read(file))).convert("L")
                label = "_".join(character.split("/")[1:])
                yield Picture(label=label, name=Path(file).name, image=image)


BLOOD = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil"}


def _blood(raw: Path) -> Iterator[Picture]:
    for part in ("1", "2"):
        with (raw / f"wbc/Class Labels of Dataset {part}.csv").open(newline="") as file:
            rows = [row for row in list(csv.reader(file))[1:] if len(row) > 1 and row[1] in BLOOD]
        for number, label, *_ in rows:
            image = raw / f"wbc/Dataset {part}" / f"{int(number):03}.bmp"
            yield Picture(label=BLOOD[label], name=f"{part}/{number}", image=image)


def _xray(raw: Path) -> Iterator[Picture]:
    for folder, label in (("No_findings", "no_findings"), ("Pneumonia", "pneumonia")):
        for file in _image_files(raw / "xray/X-Ray Image DataSet" / folder):
            patient = file.stem.split("_")[0]
            yield Picture(label=label, name=file.name, image=file, group=patient)


BUTTERFLIES = (
    "monarch",
    "zebra_longwing",
    "crimson_patched_longwing",
    "common_buckeye",
    "american_copper",
    "mourning_cloak",
    "giant_swallowtail",
    "cabbage_white",
    "red_admiral",
    "painted_lady",
)


def _butterflies(raw: Path) -> Iterator[Picture]:
    for file in _image_files(raw / "butterflies/dataset/butterflies/images"):
        label = BUTTERFLIES[int(file.name[:3]) - 1]
        yield Picture(label=label, name=file.name, image=file)


def _rooms(*views: str) -> Callable[[Path], Iterator[Picture]]:
    def read(raw: Path) -> Iterator[Picture]:
        for file in _image_files(raw / "houses/Houses Dataset"):
            house, view = file.stem.split("_", 1)
            if view in views:
                yield Picture(label=view, name=file.name, image=file, group=house)

    return read


ROAD_ARROWS = {
    19: "curve_left",
    20: "curve_right",
    33: "turn_right",
    34: "turn_left",
    36: "ahead_or_right",
    37: "ahead_or_left",
    38: "keep_right",
    39: "keep_left",
}


def _road_arrows(raw: Path) -> Iterator[Picture]:
    """The arrow signs of GTSRB: whole tracks of frames to train or val, its own test images."""
    root = raw / "gtsrb/GTSRB"
    for number, label in ROAD_ARROWS.items():
        for file in _image_files(root / f"Final_Training/Images/{number:05}"):
            track = f"{number}/{file.stem.split('_')[0]}"
            yield Picture(
                label=label,
                name=f"train/{file.name}",
                image=file,
                group=track,
                splits=("train", "val"),
            )
    with (root / "Final_Test/GT-final_test.csv").open(newline="") as rows:
        for row in csv.DictReader(rows, delimiter=";"):
            number = int(row["ClassId"])
            file = root / "Final_Test/Images" / row["Filename"]
            if number in ROAD_ARROWS:
                yield Picture(
                    label=ROAD_ARROWS[number],
                    name=f"test/{file.name}",
                    image=file,
                    splits=("test",),
                )


def _spoken_digits(raw: Path) -> Iterator[Picture]:
    for file in sorted((raw / "spoken_digits/recordings").glob("*.wav")):
        label = file.name.split("_")[0]
        yield Picture(label=label, name=file.stem, image=_spectrogram(file))


def _spectrogram(file: Path) -> Image.Image:
    """Loudness by time (rightwards, 0.75 s) and pitch (upwards, to 4 kHz), 128 pixels a side."""
    with wave.open(str(file)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2") / 32768
    window, step, frames = 256, 45, 128
    needed = window + step * (frames - 1)
    samples = np.pad(samples[:needed], (0, max(0, needed - len(samples))))
    pieces = np.lib.stride_tricks.sliding_window_view(samples, window)[::step] * np.hanning(window)
    power = np.abs(np.fft.rfft(pieces, axis=1))[:, :128].T
    loud = 20 * np.log10(np.maximum(power, 1e-6))
    loud = np.clip((loud - loud.max()) / 70 + 1, 0, 1)
    return Image.fromarray((loud[::-1] * 255).astype(np.uint8))


def _letters(raw: Path) -> Iterator[Picture]:
    for letter in "bdpq":
        for number in range(200):
            name = f"{letter}{number:03}"
            yield Picture(label=letter, name=name, image=_letter(letter, name))


def _letter(letter: str, name: str) -> Image.Image:
    """A letter b, d, p or q (one shape, mirrored) of random size, place, stroke and colours."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    side, times = 96, 4
    mask = Image.new("L", (side * times, side * times))
    draw = ImageDraw.Draw(mask)
    bowl_width, bowl_height = rng.uniform(16, 30, 2)
    stem = bowl_height * rng.uniform(0.7, 1.3)
    stroke = int(rng.uniform(2, 7) * times)
    left, middle = (side - bowl_width) / 2, side / 2
    box = (left, middle, left + bowl_width, middle + bowl_height)
    if rng.random() < 0.5:
        draw.ellipse([v * times for v in box], outline=255, width=stroke)
    else:
        radius = float(rng.uniform(0, 10)) * times
        draw.rounded_rectangle([v * times for v in box], radius, outline=255, width=stroke)
    stem_box = (left * times, (middle - stem) * times)
    draw.rectangle((*stem_box, left * times + stroke, (middle + bowl_height) * times), fill=255)
    if letter in "dq":
        mask = ImageOps.mirror(mask)
    if letter in "pq":
        mask = ImageOps.flip(mask)
    turn, scale = math.radians(rng.uniform(-15, 15)), rng.uniform(0.7, 1.3)
    shift = rng.uniform(-12, 12, 2) * times
    cos, sin, centre = math.cos(turn) / scale, math.sin(turn) / scale, side * times / 2
    x, y = centre + shift
    affine = (cos, sin, centre - cos * x - sin * y, -sin, cos, centre + sin * x - cos * y)
    mask = mask.transform(mask.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    mask = mask.resize((side, side), Image.Resampling.BOX)
    mask = mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2))))

    back, ink = rng.uniform(0, 255, (2, 3))
    while abs(back.mean() - ink.mean()) < 50:
        back, ink = rng.uniform(0, 255, (2, 3))
    cover = np.asarray(mask, dtype=np.float64)[..., None] / 255
    slope = np.linspace(-1, 1, side) * rng.uniform(-30, 30)
    ground = back + slope[:, None, None] + np.zeros((side, side, 1))
    pixels = ground * (1 - cover) + ink * cover + rng.normal(0, rng.uniform(0, 25), (side, side, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


SETS = (
    ImageSet(
        name="hymenoptera",
        kind="photos of insects",
        source="PyTorch's transfer-learning tutorial",
        licence="not stated (photos from ImageNet)",
        raw="hymenoptera/{train,val}/{ants,bees}",
        image_size=128,
        sizes=(60, 40, 90),
        pictures=_folders("hymenoptera/train", "hymenoptera/val"),
        note="ImageNet backbones may have seen these photos",
    ),
    ImageSet(
        name="paintings",
        kind="paintings of things",
        source="the project's shared data",
        licence="research data",
        raw="paintings/{train,val,test}",
        image_size=128,
        sizes=(30, 20, 40),
        pictures=_split_folders("paintings"),
    ),
    ImageSet(
        name="tiny",
        kind="32-pixel pictures",
        source="the project's shared data",
        licence="not stated",
        raw="tiny/{train,val,test}",
        image_size=96,
        sizes=(20, 15, 40),
        pictures=_split_folders("tiny"),
        png=True,
    ),
    ImageSet(
        name="letters",
        kind="drawn letters",
        source="drawn here",
        licence="of this project",
        raw="nothing",
        image_size=96,
        sizes=(40, 30, 75),
        pictures=_letters,
        mirror_sensitive=True,
        png=True,
        note="b, d, p and q are one shape in four mirrorings",
    ),
    ImageSet(
        name="digits",
        kind="handwritten digits",
        source="scikit-learn, load_digits",
        licence="CC BY 4.0 (UCI)",
        raw="nothing",
        image_size=96,
        sizes=(20, 10, 40),
        pictures=_digits,
        mirror_sensitive=True,
        png=True,
        note="8 pixels a side, enlarged to 64",
    ),
    ImageSet(
        name="characters",
        kind="handwritten characters, 100 classes",
        source="brendenlake/omniglot",
        licence="MIT",
        raw="omniglot/python/images_background_small1.zip",
        image_size=96,
        sizes=(3, 1, 4),
        pictures=_characters,
        mirror_sensitive=True,
        png=True,
    ),
    ImageSet(
        name="textures",
        kind="textures",
        source="pan8915/DeepTexture (10 classes of DTD)",
        licence="not stated",
        raw="dtd/images",
        image_size=128,
        sizes=(20, 12, 40),
        pictures=_folders("dtd/images"),
    ),
    ImageSet(
        name="satellite",
        kind="satellite images",
        source="palewithout/RSSCN7",
        licence="not stated",
        raw="rsscn7/{aGrass,bField,...}",
        image_size=128,
        sizes=(30, 18, 50),
        pictures=_folders(
            "rsscn7",
            labels={
                "aGrass": "grass",
                "bField": "field",
                "cIndustry": "industry",
                "dRiverLake": "river_lake",
                "eForest": "forest",
                "fResident": "resident",
                "gParking": "parking",
            },
        ),
        note="four zoom levels mixed in every class",
    ),
    ImageSet(
        name="blood",
        kind="white blood cells, microscope",
        source="zxaoyou/segmentation_WBC",
        licence="GPL 3",
        raw="wbc/Dataset {1,2} and wbc/Class Labels of Dataset {1,2}.csv",
        image_size=128,
        sizes={
            "neutrophil": (60, 40, 100),
            "lymphocyte": (28, 18, 38),
            "monocyte": (18, 14, 26),
            "eosinophil": (11, 7, 13),
        },
        pictures=_blood,
        png=True,
        note="uneven classes; its authors didn't have all labels checked by experts",
    ),
    ImageSet(
        name="brain",
        kind="brain MRI",
        source="KomalChaudhari8/BRAIN_TUMOR_APP (a Kaggle set)",
        licence="not stated",
        raw="brain/Testing",
        image_size=128,
        sizes=(40, 20, 50),
        pictures=_folders("brain/Testing"),
        note="patients aren't named: slices of one may be in two splits",
    ),
    ImageSet(
        name="xray",
        kind="chest x-rays",
        source="muhammedtalo/COVID-19 (of NIH ChestX-ray8)",
        licence="not stated",
        raw="xray/X-Ray Image DataSet/{No_findings,Pneumonia}",
        image_size=128,
        sizes=(80, 50, 150),
        pictures=_xray,
        note="split by patient; labels were read from reports by a program, so noisy",
    ),
    ImageSet(
        name="trash",
        kind="photos of waste",
        source="congduytran12/Trash-Classification- (TrashNet)",
        licence="MIT (garythung/trashnet)",
        raw="trash/dataset-resized",
        image_size=128,
        sizes=(30, 20, 50),
        pictures=_folders("trash/dataset-resized"),
    ),
    ImageSet(
        name="butterflies",
        kind="butterfly species",
        source="dsw88/cs601r-project1-dataset (Leeds Butterfly Dataset)",
        licence="no commercial use",
        raw="butterflies/dataset/butterflies/images",
        image_size=128,
        sizes=(20, 10, 24),
        pictures=_butterflies,
    ),
    ImageSet(
        name="hand_digits",
        kind="hand signs",
        source="ardamavi/Sign-Language-Digits-Dataset",
        licence="Apache 2.0",
        raw="sign_digits/Dataset",
        image_size=96,
        sizes=(15, 10, 30),
        pictures=_folders("sign_digits/Dataset"),
        note="one person's hand is in several classes, and may be in several splits",
    ),
    ImageSet(
        name="few",
        kind="photos of rooms, 20 images to train on",
        source="emanhamed/Houses-dataset",
        licence="not stated",
        raw="houses/Houses Dataset",
        image_size=128,
        sizes=(10, 10, 100),
        pictures=_rooms("bedroom", "kitchen"),
        note="split by house",
    ),
    ImageSet(
        name="rare",
        kind="photos of flowers, 95 to 5",
        source="martinwestin/flower_classification",
        licence="not stated",
        raw="flowers/flowers/{rose,tulip}",
        image_size=128,
        sizes={"tulip": (190, 95, 380), "rose": (10, 5, 20)},
        pictures=_folders("flowers/flowers", labels={"rose": "rose", "tulip": "tulip"}),
        note="also says what accuracy hides: always tulip is 95 % right",
    ),
    ImageSet(
        name="rooms",
        kind="photos of rooms",
        source="emanhamed/Houses-dataset",
        licence="not stated",
        raw="houses/Houses Dataset",
        image_size=128,
        sizes=(40, 25, 75),
        pictures=_rooms("bathroom", "bedroom", "frontal", "kitchen"),
        note="split by house; few is of the same photos",
    ),
    ImageSet(
        name="spoken_digits",
        kind="spectrograms of speech",
        source="Jakobovski/free-spoken-digit-dataset",
        licence="CC BY-SA 4.0",
        raw="spoken_digits/recordings",
        image_size=128,
        sizes=(20, 10, 40),
        pictures=_spoken_digits,
        mirror_sensitive=True,
        png=True,
        note="all six speakers are in every split",
    ),
    ImageSet(
        name="road_arrows",
        kind="traffic signs that point left or right",
        source="hergerr/traffic-sign-recognition (GTSRB)",
        licence="not stated",
        raw="gtsrb/GTSRB/Final_Training/Images/000{19,20,33,34,36..39}, gtsrb/GTSRB/Final_Test",
        image_size=96,
        sizes=(20, 15, 40),
        pictures=_road_arrows,
        mirror_sensitive=True,
        png=True,
        per_group=5,
        note="train and val have 5 frames of every sign filmed; test is GTSRB's own",
    ),
)


# Splitting and writing.


def _rank(*words: object) -> str:
    return hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()


def _by_rank(pictures: Iterable[Picture]) -> list[Picture]:
    """Sort by the names alone; the pictures of a group follow each other."""
    return sorted(
        pictures,
        key=lambda p: (_rank(SEED, p.group or p.name), _rank(SEED, p.name), p.label),
    )


def _without_copies(pictures: Iterable[Picture]) -> list[Picture]:
    """Leaves out what looks the same as an earlier picture, so none is in two splits or classes."""
    kept: list[Picture] = []
    looks = np.empty((0, 256), dtype=np.float32)
    for picture in pictures:
        source = picture.image
        with source.copy() if isinstance(source, Image.Image) else Image.open(source) as image:
            small = image.convert("L").resize((16, 16), Image.Resampling.BOX)
        look = np.asarray(small, dtype=np.float32).reshape(1, 256)
        if not (((looks - look) ** 2).mean(axis=1) < ALIKE).any():
            kept.append(picture)
            looks = np.concatenate([looks, look])
    return kept


def _split(pictures: list[Picture], sizes: Mapping[str, Sizes], per_group: int) -> Split:
    """Shares out the pictures in their order: first test, then val, then train.

    A group is used up by the first split that takes any of it, for all classes.

    Raises:
        ValueError: There are too few.
    """
    groups: dict[str, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(picture.group or f"{picture.label}/{picture.name}", []).append(picture)
    found: Split = {}
    for index in (2, 1, 0):
        split = SPLITS[index]
        chosen: dict[str, list[Picture]] = {label: [] for label in sizes}
        for name, group in list(groups.items()):
            left = dict.fromkeys(sizes, per_group)
            for picture in group:
                taken = chosen[picture.label]
                room = len(taken) < sizes[picture.label][index] and left[picture.label] > 0
                if room and split in picture.splits:
                    taken.append(picture)
                    left[picture.label] -= 1
                    groups.pop(name, None)
        for label, taken in chosen.items():
            if len(taken) < sizes[label][index]:
                raise ValueError(f"{label}: {len(taken)} for {split}, {sizes[label][index]} wanted")
        found[split] = chosen
    return found


def _save(picture: Picture, folder: Path, *, png: bool) -> None:
    source = picture.image
    image = source if isinstance(source, Image.Image) else Image.open(source)
    with image:
        small = ImageOps.exif_transpose(image)
        small = small.convert("L" if small.mode in {"1", "L"} else "RGB")
        small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        stem = Path(picture.name).with_suffix("").as_posix()
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)
        file = folder / f"{stem}.{'png' if png else 'jpg'}"
        if file.exists():
            raise ValueError(f"two images would be {file}")
        small.save(file, **({} if png else {"quality": 95}))


def lay_out(image_set: ImageSet, raw: Path, out: Path) -> dict[str, int]:
    """Writes OUT/NAME/{train,val,test}/CLASS/FILE.

    Args:
        image_set: Which.
        raw: Where the downloads are.
        out: Where to; OUT/NAME must not exist.

    Returns:
        How many images each split has.

    Raises:
        FileExistsError: OUT/NAME exists.
        ValueError: A class has fewer images than the set asks for.
    """
    pictures = _by_rank(image_set.pictures(raw))
    if image_set.per_group == 1:
        pictures = _without_copies(pictures)
    sizes = image_set.sizes
    if not isinstance(sizes, Mapping):
        sizes = dict.fromkeys(sorted({p.label for p in pictures}), sizes)
    shares = _split(pictures, sizes, image_set.per_group)
    (out / image_set.name).mkdir(parents=True)
    counts = dict.fromkeys(SPLITS, 0)
    for split, classes in shares.items():
        for label, chosen in classes.items():
            folder = out / image_set.name / split / label
            folder.mkdir(parents=True)
            counts[split] += len(chosen)
            for picture in chosen:
                _save(picture, folder, png=image_set.png)
    return counts


def main() -> None:
    """Lays out all sets, or one; those already there are left as they are."""
    parser = argparse.ArgumentParser(description="Lays out small public image sets.")
    parser.add_argument("--raw", type=Path, help="where the downloads are")
    parser.add_argument("--out", type=Path, help="where to write")
    parser.add_argument("--only", choices=[s.name for s in SETS], help="one set instead of all")
    parser.add_argument("--list", action="store_true", help="say what each set needs below RAW")
    options = parser.parse_args()
    if options.list:
        for s in SETS:
            print(f"{s.name}: {s.source}, licence: {s.licence}\n    RAW/{s.raw}")
        return
    if options.raw is None or options.out is None:
        parser.error("--raw and --out are needed")
    for image_set in SETS:
        if options.only not in (None, image_set.name):
            continue
        if (options.out / image_set.name).exists():
            print(f"{image_set.name}: there already")
            continue
        counts = lay_out(image_set, options.raw, options.out)
        print(f"{image_set.name}: " + ", ".join(f"{n} {split}" for split, n in counts.items()))


if __name__ == "__main__":
    main()
