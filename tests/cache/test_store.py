"""A store gives back what was put in, to one process or several."""

import copy
import errno
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pytest

from tests.cache.conftest import ABOUT, features, filled, key, right_rows, row
from zoo.cache import derived_key, image_key, open_store, root

ARRAYS = [
    ("features", np.float32, [(576,), (1,)]),
    ("activations", np.float16, [(8, 7, 5), (1, 2, 3, 4)]),
    ("images", np.uint8, [(48, 64, 3), (1, 500, 3), (31, 7, 3)]),
    ("examined", np.uint8, [(0,), (180,)]),
    ("features", np.float32, [(), (3, 0, 2)]),
]


@pytest.mark.parametrize(("kind", "dtype", "shapes"), ARRAYS)
@pytest.mark.parametrize("reopened", [False, True])
def test_arrays_come_back_with_their_values_shape_and_dtype(kind, dtype, shapes, reopened):
    random = np.random.default_rng(0)
    arrays = {key(n): (random.random(s) * 255).astype(dtype) for n, s in enumerate(shapes)}
    store = open_store(kind, ABOUT, dtype=dtype)
    store.append(arrays.items())
    if reopened:
        store.close()
        store = open_store(kind, ABOUT, dtype=dtype)
    assert len(store) == len(arrays)
    for each, array in arrays.items():
        assert each in store
        got = store.get(each)
        assert got.dtype == dtype
        npt.assert_array_equal(got, array, strict=True)
        assert not got.flags.writeable
    store.close()


def test_an_array_that_is_not_contiguous_is_kept_in_c_order():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    with features() as store:
        store.append([(key(0), array)])
        npt.assert_array_equal(store.get(key(0)), array)


def test_what_is_absent_is_a_key_error():
    with features() as store:
        assert key(0) not in store
        with pytest.raises(KeyError):
            store.get(key(0))


def test_opening_writes_nothing():
    with features() as store:
        store.append([])
        assert store.writable
    assert not root().exists()


def test_a_key_that_is_there_keeps_its_array():
    with features() as store:
        store.append([(key(0), row(0)), (key(0), row(0))])
        store.append([(key(0), row(1)), (key(1), row(1))])
        assert right_rows(store, 3) == [0, 1]
        assert (store.path / "records.bin").stat().st_size == 2 * row(0).nbytes


def test_arrays_stay_valid_while_the_store_grows_and_after_it_is_closed():
    with features() as store:
        kept = []
        for n in range(50):
            store.append([(key(n), row(n, 1000))])
            kept.append(store.get(key(n)))
    for n, array in enumerate(kept):
        npt.assert_array_equal(array, row(n, 1000))


@pytest.mark.parametrize(("array", "of"), [(row(0).astype(np.float64), key(0)), (row(0), b"short")])
def test_another_dtype_and_another_key_are_refused(array, of):
    with features() as store, pytest.raises(ValueError, match=r"float64|16 bytes"):
        store.append([(of, array)])


def test_another_about_kind_or_dtype_is_another_store():
    filled(1)
    others = [
        features(size=64),
        features(weights="abc"),
        open_store("activations", ABOUT, dtype=np.float32),
        open_store("features", ABOUT, dtype=np.float16),
    ]
    assert [len(store) for store in others] == [0] * 4
    reordered = open_store("features", dict(reversed(ABOUT.items())), dtype="float32")
    assert right_rows(reordered, 1) == [0]
    reordered.close()


def test_keys_are_those_of_content_and_context():
    assert image_key(b"a") == image_key(b"a") != image_key(b"b")
    base = image_key(b"a")
    derived = {derived_key(base), derived_key(base, "view", 3), derived_key(base, "view", 4)}
    derived |= {derived_key(base, "view3"), derived_key(image_key(b"b"), "view", 3)}
    assert {len(k) for k in derived} == {16}
    assert len(derived | {base}) == 6


@pytest.mark.medium
def test_one_process_writes_while_another_reads(other_process):
    filled(3)
    writer = other_process("""
        with features() as store:
            print(store.writable, flush=True)
            sys.stdin.readline()
            for n in range(3, 300):
                store.append([(key(n), row(n))])
            print("done", flush=True)
            sys.stdin.readline()
    """)
    assert writer.stdout.readline() == "True\n"
    with features() as reader:
        assert not reader.writable
        assert reader.blocked
        writer.stdin.write("go\n")
        writer.stdin.flush()
        while len(features()) < 300:
            assert right_rows(reader, 300) == [0, 1, 2]
        assert writer.stdout.readline() == "done\n"
        reader.append([(key(300), row(300))])
        assert key(300) not in reader
        assert right_rows(reader, 300) == [0, 1, 2]
    assert right_rows(features(), 301) == list(range(300))
    writer.communicate("end\n")
    with features() as store:
        assert store.writable


def test_of_two_that_open_a_new_store_the_first_to_append_writes():
    first, second = features(), features()
    assert first.writable
    assert second.writable
    second.append([(key(0), row(0))])
    first.append([(key(1), row(1))])
    assert not first.writable
    assert right_rows(first, 2) == right_rows(second, 2) == [0]
    first.close()
    second.close()


def test_a_copy_for_a_worker_process_reads():
    filled(2)
    with features() as store:
        store.append([(key(2), row(2))])
        other = copy.copy(store)  # through the same door as pickling
        assert right_rows(other, 3) == [0, 1, 2]
        assert not other.writable


def test_a_forked_process_reads_and_leaves_the_lock_alone(other_process):
    filled(2)
    process = other_process("""
        import gc, os
        store = features()
        child = os.fork()
        if not child:
            ok = right_rows(store, 2) == [0, 1] and not store.writable
            store.append([(key(5), row(5))])
            store.close()
            del store
            gc.collect()
            os._exit(0 if ok else 1)
        print(os.waitpid(child, 0)[1], features().writable, store.writable)
        store.append([(key(2), row(2))])
        store.close()
    """)
    assert process.communicate()[0] == "0 False True\n"
    assert right_rows(features(), 6) == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX permissions")
def test_a_folder_that_can_not_be_written_is_read(other_process, monkeypatch):
    """As another user, where root runs the tests: root may write anywhere."""
    with tempfile.TemporaryDirectory() as home:
        monkeypatch.setenv("ZOO_HOME", home)
        path = filled(2)
        for folder in (path, path.parent):
            folder.chmod(0o555)
        Path(home).chmod(0o755)
        for file in (*path.iterdir(), *path.parent.glob("*.lock")):
            file.chmod(0o444)
        process = other_process("""
            import os
            row(0)  # imports what that user may not read
            if os.getuid() == 0:
                os.setuid(65534)
            with features() as store:
                store.append([(key(5), row(5))])
                print(right_rows(store, 6), store.blocked)
        """)
        out = process.communicate()[0]
        for folder in (path, path.parent):
            folder.chmod(0o755)
    assert out.startswith("[0, 1] ")
    assert os.strerror(errno.EACCES) in out


def test_readers_in_threads_see_the_right_rows():
    filled(50)
    with features() as store:
        seen = []
        threads = [
            threading.Thread(target=lambda: seen.append(right_rows(store, 50))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [list(range(50))] * 4
