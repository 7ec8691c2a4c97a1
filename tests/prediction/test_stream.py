"""`run.stream` and `run.embed`: many images in bounded memory."""

import io
import itertools
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.errors import DataError, TrainingError
from zoo.runs.stream import Engine, Unreadable


@pytest.fixture
def images(split_photos):
    return sorted((split_photos / "val").rglob("*.png"))


def test_a_stream_predicts_as_predict_does_in_order(run, images):
    expected = run.predict(images, top_k=2)
    for options in ({}, {"batch_size": 5, "workers": 3}):
        found = list(run.stream(images, top_k=2, **options))
        assert [p.path for p in found] == images
        assert [p.label for p in found] == [p.label for p in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-4)
            assert one.distance == pytest.approx(other.distance, rel=1e-3)
            assert len(one.top) == 2


def test_a_stream_takes_all_kinds_of_images(run, images):
    path = images[0]
    image = Image.open(path)
    sample = zoo.Sample(name="a", labels=("red",), file=path)
    with path.open("rb") as file:
        given = [str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), file, image]
        found = list(run.stream([*given, np.asarray(image), sample]))
    assert len({p.probability for p in found}) == 1
    assert [p.path for p in found] == [path, path, *[None] * 5, path]
    assert len(list(run.stream(path))) == 1
    assert list(run.stream([])) == []


def test_a_stream_takes_two_batches_ahead_and_no_more(run, images):
    taken = 0

    def endless():
        nonlocal taken
        for image in itertools.cycle(images):
            taken += 1
            yield image

    stream = run.stream(endless(), batch_size=4, workers=2)
    before = threading.active_count()
    for done in range(1, 30):
        next(stream)
        assert taken <= done + 3 * 4
    assert threading.active_count() <= before + 2
    stream.close()
    assert threading.active_count() <= before


def test_an_unreadable_image_is_an_error_or_yielded_in_its_place(run, images, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"x")
    given = [images[0], tmp_path / "bad.jpg", images[1]]
    stream = run.stream(given, batch_size=1)
    assert next(stream).path == images[0]
    with pytest.raises(DataError):
        next(stream)
    found = list(run.stream(given, unreadable="yield"))
    assert isinstance(found[1], Unreadable)
    assert found[1].path == given[1]
    assert [each.path for each in found] == given
    (alone,) = run.stream(given[1:2], unreadable="yield")
    assert "bad.jpg" in alone.error


@pytest.mark.parametrize("wrong", [{"batch_size": -1}, {"workers": -1}, {"top_k": 0}])
def test_a_stream_refuses_numbers_out_of_range(run, images, wrong):
    with pytest.raises(DataError):
        next(run.stream(images, **wrong))


def test_mixed_precision_is_close_and_refused_where_it_can_not_be(run, images):
    expected, found = run.predict(images), list(run.stream(images, precision="bf16"))
    for one, other in zip(found, expected, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=0.05)
    with pytest.raises(TrainingError):
        next(run.stream(images, precision="fp16"))


def test_batch_norms_are_folded_once(run, images, monkeypatch):
    from zoo.runs import stream

    folded, fuse = [], stream.fuse_batch_norms

    def counted(*args):
        folded.append(fuse(*args).batch_norms)
        return fuse(*args)

    monkeypatch.setattr(stream, "fuse_batch_norms", counted)
    assert len(list(run.stream(images, batch_size=4))) == 12
    assert len(folded) == 1
    assert folded[0] > 0


def test_embed_gives_the_features_of_each_image(run, images, tmp_path):
    rows = run.embed(images, batch_size=5)
    assert rows.dtype == np.float32
    assert rows.shape[0] == 12
    assert rows.shape[1] > 3
    np.testing.assert_allclose(run.embed(images[3]), rows[3:4], rtol=1e-3, atol=1e-4)
    assert len(run.embed([])) == 0
    (tmp_path / "bad.jpg").write_bytes(b"x")
    with pytest.raises(DataError):
        run.embed([images[0], tmp_path / "bad.jpg"])


def test_another_engine_computes_instead(run, images):
    def compute(pixels):
        logits = torch.zeros(len(pixels), 3)
        logits[:, 2] = 9
        return torch.zeros(len(pixels), run.embed(images[:1]).shape[1]), logits

    engine = Engine(name="other", compute=compute, batch_size=4)
    assert {p.label for p in run.stream(images, engine=engine)} == {run.class_names[2]}
