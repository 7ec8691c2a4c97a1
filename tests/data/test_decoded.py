import numpy as np
import pytest
from PIL import Image

from tests.conftest import save_photo
from tests.data.test_dataset import Kept
from zoo.backbone import Preprocess
from zoo.data.decoded import DecodedImages, content_keys
from zoo.data.image import image_from_bytes, read_image
from zoo.data.prepare import Prepare
from zoo.data.sample import Sample
from zoo.errors import DataError

PREPARE = Prepare(preprocess=Preprocess(size=16), smallest_crop=0.5)


def samples_in(folder, count):
    return [
        Sample(name=str(n), labels=("a",), file=save_photo(folder / f"{n}.png", (90, 90, 90), n))
        for n in range(count)
    ]


def test_bases_are_made_once_and_kept(tmp_path):
    samples, store, told = samples_in(tmp_path, 3), Kept(), []
    keys = content_keys(samples)
    decoded = DecodedImages(samples, PREPARE, store=store, keys=keys)
    assert decoded.missing() == [0, 1, 2]
    decoded.fill(lambda done, of: told.append((done, of)))
    assert told == [(3, 3)]
    made = [DecodedImages(samples, PREPARE)[n] for n in range(3)]
    for sample in samples:
        sample.file.unlink()
    assert decoded.missing() == []
    decoded.fill(lambda done, of: told.append((done, of)))
    assert told == [(3, 3)]
    assert all(np.array_equal(decoded[n], made[n]) for n in range(3))


def test_only_what_is_missing_is_made_and_equal_contents_once(tmp_path):
    samples, store = samples_in(tmp_path, 2), Kept()
    keys = content_keys(samples)
    DecodedImages(samples[:1], PREPARE, store=store, keys=keys[:1]).fill()
    samples[0].file.write_bytes(b"changed since")
    twice, keys = [*samples, samples[1]], [*keys, keys[1]]
    decoded = DecodedImages(twice, PREPARE, store=store, keys=keys)
    assert decoded.missing() == [1]
    decoded.fill()
    assert len(store) == 2
    assert np.array_equal(decoded[1], decoded[2])


def test_a_base_that_the_store_lost_is_made_anew(tmp_path):
    samples, store = samples_in(tmp_path, 2), Kept()
    decoded = DecodedImages(samples, PREPARE, store=store, keys=content_keys(samples))
    decoded.fill()
    expected = decoded[1]
    del store[decoded.keys[1]]
    assert np.array_equal(decoded[1], expected)


def test_without_a_store_nothing_is_kept(tmp_path):
    samples = samples_in(tmp_path, 1)
    decoded = DecodedImages(samples, PREPARE)
    decoded.fill()
    before = decoded[0]
    save_photo(samples[0].file, (10, 200, 10), 5)
    assert not np.array_equal(decoded[0], before)


def test_an_image_that_vanished_is_an_error_that_names_it(tmp_path):
    samples = samples_in(tmp_path, 1)
    keys = content_keys(samples)
    samples[0].file.unlink()
    with pytest.raises(DataError, match=r"0\.png"):
        DecodedImages(samples, PREPARE, store=Kept(), keys=keys).fill()
    with pytest.raises(DataError, match=r"0\.png: "):
        content_keys(samples)


def test_a_key_is_the_content_alone(tmp_path):
    one, other = samples_in(tmp_path, 2)
    copy = Sample(name="copy", labels=("b",), file=tmp_path / "copy.png")
    copy.file.write_bytes(one.file.read_bytes())
    first, second, third = content_keys([one, other, copy])
    assert first == third != second
    assert {len(first), len(second)} == {16}


def test_an_image_without_a_file_has_the_key_of_its_bytes(tmp_path):
    one, other = samples_in(tmp_path, 2)
    loaded = Sample(name="x", labels=("a",), load=one.file.read_bytes)
    first, second, third = content_keys([one, other, loaded])
    assert first == third != second
    made = DecodedImages([one, loaded], PREPARE)
    assert np.array_equal(made[0], made[1])


def test_a_large_jpeg_gives_nearly_the_base_of_its_full_decoding(tmp_path):
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    large = coarse.resize((1200, 960), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    sample = Sample(name="", labels=("a",), file=tmp_path / "large.jpg")
    reduced = image_from_bytes(sample.read(), decode_at=PREPARE.decode_at)
    assert reduced.size == (150, 120)
    full = PREPARE(read_image(sample.file)).astype(int)
    assert np.abs(DecodedImages([sample], PREPARE)[0] - full).mean() < 1


def test_validation_decodes_in_full(tmp_path):
    Image.new("RGB", (1200, 900)).save(tmp_path / "large.jpg")
    prepare = Prepare(preprocess=Preprocess(size=16))
    content = (tmp_path / "large.jpg").read_bytes()
    assert image_from_bytes(content, decode_at=prepare.decode_at).size == (1200, 900)
