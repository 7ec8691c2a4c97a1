"""Images are examined while libraries are imported, and again only where they have changed."""

import os
import time
from concurrent.futures import CancelledError

import numpy as np
from PIL import Image

from zoo.data.doctor import examine_files, examining


def photo(path, value):
    Image.fromarray(np.full((40, 50, 3), value, dtype=np.uint8)).save(path)
    settled = time.time() - 60
    os.utime(path, (settled, settled))
    return path


def test_what_was_begun_is_taken_and_what_has_changed_since_is_looked_at_again(tmp_path):
    same, changed, gone = (photo(tmp_path / f"{n}.png", n) for n in range(3))
    later = tmp_path / "later.png"
    with examining(tmp_path, remembered=False) as begun:
        taken = begun.result()
        assert set(taken) == {same, changed, gone}
        changed.write_bytes(photo(later, 200).read_bytes() + b"more")
        gone.unlink()
        found = examine_files([same, changed, gone, later], begun=begun)
    assert found[same] is taken[same]
    assert found == examine_files([same, changed, gone, later])
    assert "no such file" in found[gone].problem


def test_a_folder_that_is_not_there_has_nothing_to_begin_with(tmp_path):
    with examining(tmp_path / "nowhere", remembered=True) as begun:
        assert begun.result() == {}


def test_leaving_waits_for_no_more_than_what_is_under_way(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), np.uint8)).save(
        tmp_path / "0.png"
    )
    for n in range(1, 60):
        os.link(tmp_path / "0.png", tmp_path / f"{n}.png")
    with examining(tmp_path, remembered=False) as begun:
        pass
    assert isinstance(begun.exception(), CancelledError)
