from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.image import read_image
from zoo.data.sources.extensions import is_image_name
from zoo.errors import DataError

HEIGHT, WIDTH = 20, 30


def gradient() -> np.ndarray:
    return np.linspace(0, 255, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)


def saved(image: Image.Image, name: str, **options) -> Image.Image:
    image.save(name, **options)
    return read_image(Path(name))


@pytest.mark.parametrize(
    "name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "a.webp", "a.tga", "a.gif", "a.jpg", "a.jp2"]
)
def test_formats_come_out_as_rgb(name):
    image = saved(
        Image.fromarray(gradient()), name, **({"lossless": True} if "webp" in name else {})
    )
    assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    assert np.abs(np.asarray(image).astype(int) - gradient()).mean() < 12


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    for name in ("deep.png", "deep.tiff"):
        image = np.asarray(saved(Image.fromarray(deep), name))
        assert np.abs(image[..., 0].astype(float) - deep / 257).max() <= 1
        assert (image[..., 0] == image[..., 2]).all()


def test_float_images_are_taken_as_shares_of_white():
    values = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.float32)
    image = np.asarray(saved(Image.fromarray(values), "float.tiff"))
    assert np.abs(image[..., 0] - values * 255).max() <= 1


def test_32_bit_grey_is_taken_by_its_range():
    for high in (200, 60000):
        values = np.linspace(0, high, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.int32)
        image = np.asarray(saved(Image.fromarray(values), "int.tiff"))
        white = 255 if high <= 255 else 65535
        assert abs(image.max() - high / white * 255) <= 1


def test_whatever_a_decoder_raises_is_an_unreadable_image(monkeypatch):
    Image.new("RGB", (4, 4)).save("a.png")

    def fail(self):
        raise RuntimeError("decoder fell over")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(DataError, match=r"a\.png: decoder fell over"):
        read_image(Path("a.png"))


def test_postscript_is_not_run_whatever_its_name():
    Path("a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(Path("a.png"))


def test_alpha_is_laid_over_white():
    rgba = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    rgba[:, : WIDTH // 2, 3] = 255
    image = np.asarray(saved(Image.fromarray(rgba), "alpha.png"))
    assert (image[:, : WIDTH // 2] == 0).all()
    assert (image[:, WIDTH // 2 :] == 255).all()


def test_transparency_of_palette_and_grey_is_laid_over_white():
    palette = Image.new("P", (WIDTH, HEIGHT), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert (np.asarray(saved(palette, "p.png", transparency=1)) == 255).all()
    assert (np.asarray(saved(palette, "opaque.png")) == 9).all()
    grey = Image.new("LA", (WIDTH, HEIGHT), (10, 0))
    assert (np.asarray(saved(grey, "la.png")) == 255).all()


def test_cmyk_and_bilevel_become_rgb():
    cmyk = saved(Image.fromarray(gradient()).convert("CMYK"), "cmyk.jpg")
    assert cmyk.mode == "RGB"
    assert np.abs(np.asarray(cmyk).astype(int) - gradient()).mean() < 12
    assert (np.asarray(saved(Image.new("1", (WIDTH, HEIGHT), 1), "one.png")) == 255).all()


def test_exif_orientation_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright = saved(Image.fromarray(gradient()), "turned.png", exif=exif)
    assert upright.size == (HEIGHT, WIDTH)
    assert (np.asarray(upright) == np.rot90(gradient(), -1)).all()


def test_image_names_are_known_by_extension():
    assert all(is_image_name(Path(n)) for n in ("a.jpg", "a.JPEG", "a.tif", "a.webp", "a.avif"))
    assert not any(is_image_name(Path(n)) for n in ("a.txt", "a", "Thumbs.db", "a.pdf"))
