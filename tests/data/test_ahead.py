"""Images are examined while libraries are imported, and again only where they have changed."""

import os
import signal
import subprocess
import time

import numpy as np
from PIL import Image

from zoo.data.check import examine_files, examining


def photo(path, value):
    Image.fromarray(np.full((40, 50, 3), value, dtype=np.uint8)).save(path)
    settled = time.time() - 60
    os.utime(path, (settled, settled))
    return path


def test_what_has_changed_meanwhile_is_looked_at_again(tmp_path):
    same, changed, gone = (photo(tmp_path / f"{n}.png", n) for n in range(3))
    later = tmp_path / "later.png"
    with examining(tmp_path, remembered=False) as ahead:
        found = ahead()
    assert set(found) == {same, changed, gone}
    changed.write_bytes(photo(later, 200).read_bytes() + b"more")
    gone.unlink()
    now = examine_files([same, changed, gone, later], ahead=found)
    assert now[same] is found[same]
    assert now == examine_files([same, changed, gone, later])
    assert "no such file" in now[gone].problem


def test_links_wait_for_who_knows_whether_they_count(tmp_path):
    folder, elsewhere = tmp_path / "photos", photo(tmp_path / "elsewhere.png", 1)
    folder.mkdir()
    here = photo(folder / "here.png", 2)
    (folder / "link.png").symlink_to(elsewhere)
    with examining(folder, remembered=False) as ahead:
        assert set(ahead()) == {here}


def test_of_a_folder_that_is_not_there_nothing_is_known(tmp_path):
    with examining(tmp_path / "nowhere", remembered=True) as ahead:
        assert ahead() == {}


def test_leaving_ends_the_process_in_the_midst_of_its_work(tmp_path, monkeypatch):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (3000, 3000, 3), np.uint8)).save(
        tmp_path / "0.png"
    )
    for n in range(1, 200):
        os.link(tmp_path / "0.png", tmp_path / f"{n}.png")
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    with examining(tmp_path, remembered=False):
        pass
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_without_another_process_nothing_is_known_ahead(tmp_path, monkeypatch):
    photo(tmp_path / "a.png", 1)
    monkeypatch.setattr("sys.executable", str(tmp_path / "nowhere"))
    with examining(tmp_path, remembered=False) as ahead:
        assert ahead() == {}
