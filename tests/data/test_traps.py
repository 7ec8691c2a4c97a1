"""Image files that would take a machine's memory or hours, and those with more than one picture."""

import io
import re
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fuzz.images_support import grey_page, jpeg, png, png_chunk, tiff, with_segments, within
from zoo.data import image as reading
from zoo.data.headers import MAX_PIXELS
from zoo.data.image import read_image
from zoo.data.sources.extensions import is_image_name
from zoo.errors import DataError


def read(content: bytes, name: str = "x.png") -> Image.Image:
    Path(name).write_bytes(content)
    with within():
        return read_image(Path(name))


def refused(content: bytes, name: str = "x.png") -> str:
    with pytest.raises(DataError) as error:
        read(content, name)
    prefix, _, reason = str(error.value).partition(": ")
    assert prefix == f"unreadable image {name}"
    assert "\n" not in reason
    return reason


def exif_bomb(size: int = 65_000) -> bytes:
    """EXIF whose every entry claims all of it."""
    count = (size - 14) // 12
    entries = b"".join(struct.pack("<HHLL", 50_000 + n, 7, size, 0) for n in range(count))
    return b"II*\0" + struct.pack("<LH", 8, count) + entries + bytes(4)


def progressive_jpeg(scans: int) -> bytes:
    """A JPEG whose last scan comes that many times."""
    whole = jpeg(progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def tiff_bomb() -> bytes:
    """A TIFF of 16 pixels with a million strips."""
    count = 1_000_000
    where = (273, 4, count, 8 + 2 + 12 * 9 + 4)
    return tiff(grey_page(where, (278, 4, 1, 1)), tail=struct.pack("<L", 8) * count)


#: Hostile files, and what is said of each; made when wanted, for some take a second.
TRAPS = {
    "a bomb": (
        lambda: png(60_000, 60_000),
        "60000 x 60000",
    ),
    "above Pillow's warning": (lambda: png(9_500, 9_500), "9500 x 9500"),
    "the most a header says": (
        lambda: png(2**31 - 1, 2**31 - 1, rows=bytes(100)),
        "2147483647 x 2147483647",
    ),
    "a line": (
        lambda: png(1, 60_000, rows=bytes(120_000)),
        "100 times",
    ),
    "a row": (
        lambda: png(60_000, 1),
        "60000 x 1",
    ),
    "no width": (lambda: png(0, 4, rows=bytes(4)), ""),
    "no height": (lambda: png(4, 0, rows=b""), ""),
    "a text bomb": (
        lambda: png(
            4, 4, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8))), rows=bytes(20)
        ),
        "",
    ),
    "an international text bomb": (
        lambda: png(
            4, 4, png_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(10**8))), rows=bytes(20)
        ),
        "",
    ),
    "scans": (lambda: progressive_jpeg(500), "40 scans"),
    "EXIF segments": (
        lambda: with_segments(jpeg(), *[b"Exif\0\0" + bytes(4)] * 200_000),
        "100 EXIF",
    ),
    "comments": (
        lambda: b"P2\n2 2\n255\n" + b"#\n" * 500_000 + b"1 2 3 4\n",
        "100 comments",
    ),
    "strips": (tiff_bomb, "1,000,000 strips"),
    "entries": (
        lambda: tiff([(t, 4, 1, 1) for t in range(60_000)]),
        "60,000 entries",
    ),
    "a bomb in an icon": (
        lambda: (
            b"\0\0\1\0\1\0"
            + struct.pack("<BBBBHHLL", 16, 16, 0, 0, 1, 32, 200, 22)
            + png(9000, 9000)
        ),
        "format",
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_named_at_once(name):
    make, reason = TRAPS[name]
    assert reason in refused(make())


def test_an_icc_profile_that_inflates_without_end_is_left_alone():
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))
    with pytest.raises(DataError, match=r"x\.png"):
        read(png(4, 4, profile, rows=bytes(20)))


def test_hostile_exif_is_read_within_its_own_size():
    content = png(4, 4, png_chunk(b"eXIf", exif_bomb()), rows=bytes(20))
    Path("x.png").write_bytes(content)
    with within(), pytest.warns(UserWarning, match="Tag data larger than file"):
        read_image(Path("x.png"))


@pytest.mark.slow
def test_traps_take_little_memory():
    """All of them in a process that has 400 MB above what the imports take."""
    for number, (make, _) in enumerate(TRAPS.values()):
        Path(f"{number}.png").write_bytes(make())
    code = """
        import resource, sys, warnings
        from pathlib import Path
        from zoo.data.image import read_image
        from zoo.errors import DataError

        warnings.simplefilter("ignore")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 400 * 10**6
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for path in sorted(Path().glob("*.png")):
            try:
                read_image(path)
            except DataError as error:
                assert "Memory" not in str(error), error
                print(path)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split()) == len(TRAPS)


@pytest.mark.medium
def test_a_picture_of_just_the_size_that_is_taken_is_taken_without_a_warning():
    side = int(MAX_PIXELS**0.5)
    Image.new("1", (side, side)).save("x.png")
    assert read_image(Path("x.png")).size == (side, side)


def test_long_pictures_up_to_a_hundred_to_one_are_taken():
    assert read(png(100, 1)).size == (100, 1)
    assert read(png(1, 100, rows=bytes(200))).size == (1, 100)
    assert read(png(1, 1)).size == (1, 1)


def test_a_picture_in_memory_of_absurd_size_is_refused(run):
    with pytest.raises(DataError, match="60000 x 1"):
        run.predict(Image.new("RGB", (60_000, 1)))


def frames(form: str, **options) -> bytes:
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    pictures[0].save(file, form, save_all=True, append_images=pictures[1:], **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_animations_and_pages_are_named(form):
    assert "several pictures" in refused(frames(form), "x.jpg")


def test_an_animation_of_one_picture_is_a_picture():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "GIF", save_all=True)
    assert np.asarray(read(file.getvalue())).tolist()[0][0] == [255, 0, 0]


def test_a_camera_s_second_picture_does_not_matter():
    image = read(frames("MPO", quality=95), "x.jpg")
    assert np.abs(np.asarray(image)[0, 0].astype(int) - [255, 0, 0]).max() < 5


def test_what_follows_a_jpeg_does_not_matter():
    video = b"\xff\xda\0\2" * 1000
    assert read(jpeg() + video).size == (24, 18)
    assert read(jpeg(comment=video)).size == (24, 18)
    hidden = progressive_jpeg(20)
    at = hidden.rindex(b"\xff\xda")
    comment = b"\xff\xfe\0\4\xff\xd9"
    scans = hidden[:at] + comment + hidden[at:-2] * 100 + hidden[-2:]
    assert "40 scans" in refused(scans)


def test_a_smaller_version_in_a_tiff_is_no_page():
    thumbnail = (254, 4, 1, 1)
    assert read(tiff(grey_page(), grey_page(thumbnail))).size == (4, 4)
    assert read(tiff(grey_page(), grey_page(thumbnail), grey_page(thumbnail))).size == (4, 4)
    assert "several pictures" in refused(tiff(grey_page(), grey_page(thumbnail), grey_page()))
    assert "several pictures" in refused(tiff(*[grey_page()] + [grey_page(thumbnail)] * 40))


def test_a_tiff_whose_directories_go_in_circles_ends():
    page = tiff(grey_page())
    assert read(page[: 8 + 2 + 12 * 9] + struct.pack("<L", 8)).size == (4, 4)


def test_layers_of_photoshop_are_one_picture():
    flat = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3) + bytes(14) + bytes(48)
    assert read(flat, "x.psd").size == (4, 4)


def test_what_is_no_image_is_named_whatever_its_extension():
    for content in (b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4\n", b"PK\3\4" * 9):
        assert "format" in refused(content)


@pytest.mark.parametrize("name", ["x.ico", "x.icns", "x.cur", "x.fli", "x.eps", "x.iim", "x.mpg"])
def test_files_that_hold_others_or_run_programs_are_no_images(name):
    assert not is_image_name(Path(name))


def test_a_file_whose_holding_format_would_run_ghostscript_is_no_image():
    field = b"\x1c\x03\x3c\0\2\1\0" + b"\x1c\x03\x14\0\2\0\4" + b"\x1c\x03\x1e\0\2\0\4"
    field += b"\x1c\x03\x78\0\1\5" + b"\x1c\x08\x0a\0\x40" + b"%!PS-Adobe-3.0 EPSF-3.0\n".ljust(64)
    assert "format" in refused(field)


@pytest.mark.slow
def test_what_pillow_decodes_slowly_is_taken_up_to_two_megapixels():
    file = io.BytesIO()
    Image.new("RGB", (2000, 1500)).save(file, "QOI")
    assert re.search("QOI.* 2,097,152", refused(file.getvalue()))


def test_a_photo_cut_anywhere_is_named_and_never_half_read():
    whole = jpeg()
    for end in range(0, len(whole) - 2, 7):
        assert refused(whole[:end])


def test_no_number_at_all_is_no_brightness():
    for value in (np.nan, np.inf, -np.inf):
        values = np.full((4, 4), value, np.float32)
        values[0, 0] = 0.5
        Image.fromarray(values).save("x.tiff")
        assert np.asarray(read_image(Path("x.tiff")))[0, 0, 0] == 128
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save("x.tiff")
    assert not np.asarray(read_image(Path("x.tiff"))).any()


def test_large_pictures_are_converted_in_strips_to_the_same_pixels(monkeypatch):
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (30, 20, 4), dtype=np.uint8)).save("alpha.png")
    Image.fromarray(draw.integers(0, 256, (30, 20), dtype=np.uint8)).convert("P").save(
        "palette.png", transparency=3
    )
    Image.fromarray(draw.random((30, 20)).astype(np.float32) - 0.5).save("float.tiff")
    Image.fromarray(draw.integers(0, 65536, (30, 20), dtype=np.uint16)).save("deep.png")
    names = ("alpha.png", "palette.png", "float.tiff", "deep.png")
    at_once = [read_image(Path(name)).tobytes() for name in names]
    monkeypatch.setattr(reading, "_STRIP", 70)
    assert [read_image(Path(name)).tobytes() for name in names] == at_once
