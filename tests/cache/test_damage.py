"""Whatever happens to its files, a store opens, and what it gives is right."""

import errno
import json
import os
import random

import pytest

from tests.cache.conftest import features, filled, key, right_rows, row
from zoo.cache import stored
from zoo.errors import CacheError, ZooError

ENTRY = 52


def change(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


@pytest.mark.slow
def test_a_store_whose_writer_is_killed_opens_with_all_that_was_appended(other_process):
    """Twenty times, at any moment; each continues where the one before was killed."""
    process = other_process("""
        import os, random, signal, time
        draw, last = random.Random(0), 0
        for attempt in range(20):
            heard, tell = os.pipe()
            child = os.fork()
            if not child:
                store = features()
                n = len(store)
                while True:
                    store.append([(key(i), row(i)) for i in range(n, n + 4)])
                    n += 4
                    os.write(tell, b"!")
            os.close(tell)
            appended = sum(len(os.read(heard, 1)) for _ in range(draw.randrange(4)))
            time.sleep(draw.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            with features() as store:
                assert store.writable
                rows = right_rows(store, last + 1000)
                assert rows == list(range(len(store))), rows
                assert len(store) >= last + 4 * appended
                last = len(store)
                index = (store.path / "index.bin")
                assert not index.exists() or index.stat().st_size == 52 * last
        print(last)
    """)
    assert int(process.communicate()[0]) >= 4 * 20


def test_a_flipped_byte_takes_one_record():
    path = filled(5)
    change(path / "records.bin", 2 * row(0).nbytes + 7)
    with features() as store:
        with pytest.raises(KeyError):
            store.get(key(2))
        assert right_rows(store, 5) == [0, 1, 3, 4]
        store.append([(key(2), row(2))])
        assert right_rows(store, 5) == [0, 1, 2, 3, 4]
    assert right_rows(features(), 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("byte", range(ENTRY))
def test_a_flipped_byte_of_an_entry_takes_one_record(byte):
    path = filled(3)
    change(path / "index.bin", ENTRY + byte)
    with features() as store:
        assert right_rows(store, 3) == [0, 2]


def test_an_index_cut_at_any_length_keeps_its_whole_entries(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    path = filled(3)
    whole = (path / "index.bin").read_bytes()
    for length in range(len(whole) + 1):
        (path / "index.bin").write_bytes(whole[:length])
        with features() as store:
            assert right_rows(store, 3) == list(range(length // ENTRY))
            store.append((key(n), row(n)) for n in range(3))
        with features() as store:
            assert right_rows(store, 3) == [0, 1, 2]


@pytest.mark.parametrize("garbage", [b"\0" * ENTRY, b"\xff" * 3 * ENTRY, b"x", b"y" * 1000])
@pytest.mark.parametrize("before", [0, 2])
def test_garbage_in_the_index_is_passed_over(garbage, before):
    path = filled(2)
    index = path / "index.bin"
    index.write_bytes(index.read_bytes()[: before * ENTRY] + garbage)
    with features() as store:
        assert right_rows(store, 2) == list(range(before))
        assert index.stat().st_size == before * ENTRY
        store.append([(key(5), row(5))])
    assert right_rows(features(), 6) == [*range(before), 5]


def test_random_garbage_in_either_file_never_gives_a_wrong_row(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    draw = random.Random(0)
    for trial in range(60):
        path = filled(4, trial=trial)
        for name in draw.choice([["index.bin"], ["records.bin"], ["index.bin", "records.bin"]]):
            content = bytearray((path / name).read_bytes())
            start = draw.randrange(len(content))
            content[start : start + draw.randrange(1, 90)] = draw.randbytes(draw.randrange(90))
            (path / name).write_bytes(content)
        with features(trial=trial) as store:
            right_rows(store, 4)
            store.append((key(n), row(n)) for n in range(5))
            assert right_rows(store, 5) == [0, 1, 2, 3, 4]


def test_records_that_are_cut_take_those_behind_the_cut():
    path = filled(4)
    with (path / "records.bin").open("rb+") as file:
        file.truncate(2 * row(0).nbytes + 5)
    with features() as store:
        assert right_rows(store, 4) == [0, 1]
        store.append([(key(3), row(3))])
        assert right_rows(store, 4) == [0, 1, 3]


@pytest.mark.parametrize("about", [b"", b"\xff\x00", b"[]", b"null", b'{"about": 3}', b"[" * 9999])
def test_garbage_in_about_is_no_hindrance_and_put_right_at_the_next_use(about):
    path = filled(2)
    (path / "about.json").write_bytes(about)
    (found,) = stored()
    assert dict(found.about) == {}
    assert found.records == 2
    with features() as store:
        assert right_rows(store, 2) == [0, 1]
    assert json.loads((path / "about.json").read_bytes())["about"] == {
        "backbone": "timm/test_efficientnet",
        "size": 32,
    }


@pytest.mark.parametrize("missing", ["about.json", "index.bin", "records.bin"])
def test_a_missing_file_is_made_anew(missing):
    path = filled(2)
    (path / missing).unlink()
    with features() as store:
        assert right_rows(store, 2) == ([0, 1] if missing == "about.json" else [])
        store.append((key(n), row(n)) for n in range(2))
    assert right_rows(features(), 2) == [0, 1]


def test_a_folder_deleted_by_hand_is_said_at_the_next_append():
    filled(2)
    with features() as store:
        for file in store.path.iterdir():
            file.unlink()
        store.path.rmdir()
        assert right_rows(store, 2) == [0, 1]
        with pytest.raises(CacheError, match=os.strerror(errno.ENOENT)):
            store.append([(key(2), row(2))])


@pytest.mark.parametrize("sync", [0, 1])
def test_a_disk_that_fails_is_said_and_what_was_there_stays(sync, monkeypatch):
    filled(2)
    with features() as store:
        calls = iter(range(10))
        real = os.fsync

        def fsync(descriptor):
            if next(calls) == sync:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            with pytest.raises(CacheError) as raised:
                store.append([(key(n), row(n)) for n in range(2, 5)])
        assert isinstance(raised.value, ZooError)
        assert f"{store.path}: {os.strerror(errno.ENOSPC)}" in str(raised.value)
        assert right_rows(store, 2) == [0, 1]
        store.append([(key(n), row(n)) for n in range(2, 9)])
        assert right_rows(store, 10) == list(range(9))
    assert right_rows(features(), 10) == list(range(9))


def test_a_file_that_can_not_grow_is_said_and_what_was_there_stays(other_process):
    process = other_process("""
        import resource
        from zoo.errors import CacheError
        with features() as store:
            store.append([(key(n), row(n)) for n in range(3)])
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            try:
                store.append([(key(n), row(n)) for n in range(3, 6)])
            except CacheError as error:
                print("File too large" in str(error))
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            print(right_rows(store, 6), (store.path / "records.bin").stat().st_size)
            store.append([(key(n), row(n)) for n in range(4, 6)])
            print(right_rows(store, 6))
    """)
    assert process.communicate()[0].splitlines() == [
        "True",
        f"[0, 1, 2] {3 * row(0).nbytes}",
        "[0, 1, 2, 4, 5]",
    ]


def test_no_room_for_the_first_append_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "file"))
    with features() as store, pytest.raises(CacheError, match=os.strerror(errno.ENOTDIR)):
        store.append([(key(0), row(0))])


def test_an_interrupted_append_leaves_right_rows(monkeypatch):
    filled(2)
    with features() as store:

        def interrupt(descriptor):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupt)
            with pytest.raises(KeyboardInterrupt):
                store.append([(key(2), row(2))])
        store.append([(key(3), row(3))])
        assert right_rows(store, 4) == [0, 1, 3]


def test_a_batch_of_rows_is_synced_to_disk_twice(monkeypatch):
    syncs = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    with features() as store:
        store.append([(key(0), row(0))])
        syncs.clear()
        store.append((key(n), row(n)) for n in range(300))
    assert len(syncs) == 2
