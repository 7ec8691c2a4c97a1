"""Addresses as data: on a web server with faults, and on object storage."""

import csv
import json
import multiprocessing
import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import make_photos, zoo_
from tests.data.servers import BUCKET, s3_server, web_server
from tests.data.sources import CLASSES, write_parquet, write_shard
from zoo.cache import clear, stored
from zoo.cache import remote as cache
from zoo.data.check.dataset import check_data
from zoo.data.columns import Columns
from zoo.data.remote import RemoteFile, address_of, beside, errors, find, storage
from zoo.data.sources import is_remote, located, open_source, unlabelled
from zoo.data.split import read_splits
from zoo.errors import CacheError, DataError, UnavailableError

# Clients of S3 close their sockets when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

IMAGE = "/photos/red/000.png"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(errors, "BACKOFF", 0.01)


@pytest.fixture
def local(tmp_path):
    """The same 24 images as a folder, a table, a ZIP archive, shards and a Parquet file."""
    photos = make_photos(tmp_path / "data" / "photos", 8)
    files = sorted(photos.rglob("*.png"))
    rows = [{"path": f"photos/{f.parent.name}/{f.name}", "label": f.parent.name} for f in files]
    folder = tmp_path / "data"
    (folder / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "label"])
        writer.writeheader()
        writer.writerows(rows)
    shutil.make_archive(str(photos), "zip", photos)
    for n in range(3):
        write_shard(folder / "shards" / f"train-{n:03}.tar", files[n::4])
    write_shard(folder / "shards" / "val-000.tar", files[3::4])
    (folder / "shards" / "classes.txt").write_text("\n".join(CLASSES))
    write_parquet(folder / "images.parquet", files)
    return folder


@pytest.fixture
def web(local):
    with web_server() as server:
        server.add(local)
        server.image = next(path for path in server.files if path.endswith(".png"))
        yield server


@pytest.fixture
def s3(monkeypatch):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with s3_server(monkeypatch) as server:
        yield server


@pytest.fixture
def bucket(s3, local):
    s3.add(local, "data")
    return s3


def read(data, **options):
    return read_splits(open_source(data, **options), val_split=0.25, seed=0)


def contents(splits):
    return sorted((s.labels, s.content.key) for s in (*splits.train, *splits.val))


def names(splits):
    return sorted(s.name for s in (*splits.train, *splits.val))


def test_addresses_keep_their_slashes_and_lead_nowhere_else():
    assert address_of(Path("s3://bucket/photos")) == "s3://bucket/photos"
    assert address_of("HTTPS://host/a.zip?key=1") == "https://host/a.zip?key=1"
    assert [address_of(text) for text in ("photos", "/photos", "hf:a/b", "C:\\photos", 3)] == [
        None
    ] * 5
    assert beside("https://h/a%20b/t.csv?key=1", "ü 1.jpg") == "https://h/a%20b/%C3%BC%201.jpg"
    assert beside("s3://b/data/t.csv", "../../../etc/x.jpg") == "s3://b/etc/x.jpg"
    assert located("s3://bucket/photos") == "s3://bucket/photos"


@pytest.mark.parametrize("name", ["table.csv", "table.jsonl", "photos.zip", "images.parquet"])
def test_a_web_server_has_the_images_of_the_folder(name, web, local):
    found = read(f"{web.address}/{name}")
    assert contents(found) == contents(read(local / "photos"))
    assert names(found) == names(read(local / name))
    # Before a run, only some of its images are read.
    assert is_remote(open_source(f"{web.address}/{name}"))
    assert not is_remote(open_source(local / name))


def test_shards_of_a_web_server_are_read_by_range(web, local):
    found = read(f"{web.address}/shards/train-{{000..002}}.tar", val=str(local / "photos"))
    assert len(found.train) == 18
    ranges = [wanted for method, path, wanted in web.requests if path.endswith(".tar")]
    assert all(wanted for wanted in ranges if wanted is not None)
    images = [s for s in found.train if s.stamp]
    assert len(images) == 18
    web.requests.clear()
    again = read(f"{web.address}/shards/train-{{000..002}}.tar", val=str(local / "photos"))
    assert contents(again) == contents(found)
    # The index and the images are in the cache.
    assert web.count("GET") == 0


def ranges(file, count=40):
    """Read a file in parts, in some threads; return its beginning."""
    size = file.size // count
    with ThreadPoolExecutor(4) as pool:
        parts = pool.map(lambda n: file.read(n * size, size, cached=False), range(count))
    return b"".join(parts)


def test_connections_are_kept_for_further_requests(web):
    file = find(f"{web.address}/photos.zip")
    content = web.files["/photos.zip"]
    assert content.startswith(found := ranges(file))
    assert len(found) > 0.9 * len(content)
    assert (web.count("GET"), web.count("HEAD")) == (40, 1)
    assert web.connections <= 5
    # Answers without content, faults and changes keep them as well.
    before = web.connections
    web.faults["/photos.zip"] = [503, 404]
    with pytest.raises(FileNotFoundError):
        file.read(0, 9, cached=False)
    assert file.read(0, 9, cached=False) == content[:9]
    assert web.connections == before


def test_a_connection_that_the_server_has_closed_is_replaced(web):
    file = find(f"{web.address}/photos.zip")
    web.faults["/photos.zip"] = ["close"] * 3
    for _ in range(4):
        assert file.read(0, 9, cached=False) == web.files["/photos.zip"][:9]
    assert web.count("GET") == 4
    assert web.connections == 4


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="the system has no fork"
)
def test_a_forked_process_has_connections_of_its_own(web, tmp_path):
    file = find(f"{web.address}/photos.zip")
    found = ranges(file)
    before = web.connections
    children = [
        multiprocessing.get_context("fork").Process(
            target=lambda path: path.write_bytes(ranges(file)), args=(tmp_path / f"{n}.zip",)
        )
        for n in range(2)
    ]
    for child in children:
        child.start()
    assert ranges(file) == found
    for child in children:
        child.join()
    assert [(tmp_path / f"{n}.zip").read_bytes() for n in range(2)] == [found] * 2
    assert before + 2 <= web.connections <= before + 8


@pytest.mark.parametrize("fault", [503, 429, "cut", 500])
def test_a_passing_fault_is_retried_and_gives_the_same_images(fault, web, local):
    web.faults = {path: [fault, fault] for path in [*web.files, "/table.csv"]}
    assert contents(read(f"{web.address}/table.csv")) == contents(read(local / "photos"))


@pytest.mark.medium
def test_a_slow_answer_is_retried(web, local, monkeypatch):
    monkeypatch.setattr(errors, "SECONDS", 3.0)
    web.faults = {web.image: [None, "slow"]}
    web.pause = 8.0
    assert contents(read(f"{web.address}/table.csv")) == contents(read(local / "photos"))


@pytest.mark.parametrize("fault", [503, "cut", pytest.param("slow", marks=pytest.mark.slow)])
def test_a_lasting_fault_ends_with_one_error_and_leaves_no_image_out(fault, web, monkeypatch):
    if fault == "slow":
        monkeypatch.setattr(errors, "SECONDS", 3.0)
    web.pause = 8.0
    web.faults = {web.image: [None, *[fault] * 100]}
    with pytest.raises(UnavailableError) as caught:
        read(f"{web.address}/table.csv")
    assert web.image in str(caught.value)
    assert web.faults[web.image].count(fault) >= 100 - errors.ATTEMPTS


def test_content_that_changes_after_it_was_listed_is_an_error(web):
    source = open_source(f"{web.address}/table.csv")
    web.files[web.image] = next(v for k, v in web.files.items() if "blue/" not in k and "png" in k)
    with pytest.raises(UnavailableError):
        read_splits(source, val_split=0.25, seed=0)


@pytest.mark.parametrize("name", ["photos.zip", "images.parquet", "shards/train-000.tar"])
def test_a_container_that_changes_while_it_is_read_is_an_error(name, web):
    source = open_source(f"{web.address}/{name}", val=f"{web.address}/photos.zip")
    samples = source.read("train").samples
    clear("remote")
    content = web.files[f"/{name}"]
    web.files[f"/{name}"] = content[:-1] + bytes([content[-1] ^ 1])
    from zoo.data.sources import inline

    inline._group.cache_clear()
    with pytest.raises(UnavailableError):
        samples[0].read()


def test_without_versions_other_content_is_still_an_error(web):
    web.versions = False
    splits = read(f"{web.address}/table.csv")
    assert stored() == [] or all(each.kind != "remote" for each in stored())
    sample = splits.train[0]
    assert not sample.stamp
    path = f"/{sample.name}"
    content = web.files[path]
    web.files[path] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(DataError):
        sample.read()


def test_a_server_without_parts_or_head_is_read_as_far_as_possible(web, local):
    web.faults = {path: ["head"] for path in web.files}
    assert contents(read(f"{web.address}/table.csv")) == contents(read(local / "photos"))
    web.faults = {"/photos.zip": [None, *["ranges"] * 10]}
    with pytest.raises(DataError) as caught:
        open_source(f"{web.address}/photos.zip")
    assert not isinstance(caught.value, UnavailableError)


def test_a_missing_image_is_left_out_and_denied_access_is_an_error(web):
    rows = web.files["/table.csv"].decode().splitlines()
    web.files["/table.csv"] = "\n".join([*rows, "photos/none.png,red"]).encode()
    splits = read(f"{web.address}/table.csv")
    assert [i.name for i in splits.issues if i.kind == "unreadable"] == ["photos/none.png"]
    web.faults = {web.image: [401]}
    with pytest.raises(UnavailableError):
        read(f"{web.address}/table.csv")


@pytest.mark.parametrize(
    "address", ["{}/photos", "{}/none.zip", "http://a:b@127.0.0.1/x.zip", "nosuch://x/y.zip"]
)
def test_what_is_not_there_is_one_error(address, web):
    result = zoo_("finetune", "--data", address.format(web.address), "--out", "run", code=2)
    assert "Traceback" not in result.output
    assert not Path("run").exists()


def test_addresses_in_a_local_table_need_permission(web, local, tmp_path):
    files = sorted((local / "photos").rglob("*.png"))
    with (tmp_path / "mine.csv").open("w") as table:
        table.write("path,label\n")
        for file in files:
            table.write(f"{web.address}/photos/{file.parent.name}/{file.name},{file.parent.name}\n")
    with pytest.raises(DataError):
        open_source(tmp_path / "mine.csv")
    assert web.requests == []
    found = read(str(tmp_path / "mine.csv"), allow_network=True)
    assert contents(found) == contents(read(local / "photos"))


def described(samples):
    """All that samples have, with what they read in place of the function that reads it."""
    return [replace(s, load=None) for s in samples], [s.read() for s in samples]


def few_in_columns(monkeypatch):
    for module in ("columns", "sources", "sources.folder", "sources.indexed", "sources.table"):
        monkeypatch.setattr(f"zoo.data.{module}.MANY", 1)


def test_many_addresses_in_a_table_are_columns(web, local, monkeypatch):
    """Beside files on this machine, and an image that is missing."""
    files = sorted((local / "photos").rglob("*.png"))
    with (local / "mixed.csv").open("w") as table:
        table.write("path,label\n")
        for n, file in enumerate(files):
            place = f"photos/{file.parent.name}/{file.name}"
            table.write(f"{place if n % 3 else f'{web.address}/{place}'},{file.parent.name}\n")
        table.write(f"{web.address}/gone.png,red\n")
    for place in (f"{web.address}/table.csv", str(local / "mixed.csv")):
        expected = open_source(place, allow_network=True).read("train").samples
        with monkeypatch.context() as patch:
            few_in_columns(patch)
            found = open_source(place, allow_network=True)
            assert is_remote(found)
            samples = found.read("train").samples
            splits = read(place, allow_network=True)
        assert isinstance(samples, Columns)
        assert isinstance(splits.train, Columns)
        assert contents(splits) == contents(read(local / "photos"))
        sent = pickle.loads(pickle.dumps(samples))
        assert described(samples[:24]) == described(expected[:24]) == described(sent[:24])
    with pytest.raises(DataError):
        samples[24].read()


def test_a_remote_table_reads_no_other_server_and_no_local_file(web, local, tmp_path):
    with web_server() as other:
        web.files["/bad.csv"] = f"path,label\n{other.address}/x.png,red\n".encode()
        with pytest.raises(DataError):
            open_source(f"{web.address}/bad.csv")
        assert other.requests == []
    here = next((local / "photos").rglob("*.png"))
    web.files["/bad.csv"] = f"path,label\n{here},red\nphotos/red/x.png,green\n".encode()
    samples = open_source(f"{web.address}/bad.csv").read("train").samples
    with pytest.raises(DataError):
        samples[0].read()


def test_prediction_reads_addresses_only_if_allowed(web):
    for place in (f"{web.address}/table.csv", f"{web.address}/photos.zip"):
        zoo_("predict", "none", place, code=2)
    assert web.requests == []


# The cache.


def entry(n, size):
    return bytes([n]) * 16, bytes([n]) * size


def test_the_cache_stays_within_its_limit_and_drops_what_was_used_longest_ago(monkeypatch):
    monkeypatch.setenv(cache.LIMIT, str(100_000 / 10**9))
    for n in range(30):
        key, content = entry(n, 10_000)
        assert cache.keep(key, content)
        path = cache._place(key)
        os.utime(path, (1e9 + n, 1e9 + n))
        (found,) = (each for each in stored() if each.kind == "remote")
        assert found.bytes <= 100_000
    assert cache.recall(entry(29, 0)[0]) == entry(29, 10_000)[1]
    assert cache.recall(entry(0, 0)[0]) is None
    assert not cache.keep(*entry(31, 95_000))


def test_damaged_entries_are_read_again(web):
    file = find(f"{web.address}{web.image}")
    content = file.read()
    (path,) = cache.remote_root().glob("??/*")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert file.read() == content
    assert cache.recall(path.name and bytes.fromhex(path.name)) == content


def test_threads_keep_to_the_limit_together(monkeypatch):
    monkeypatch.setenv(cache.LIMIT, str(50_000 / 10**9))

    def write(first):
        for n in range(first, first + 20):
            cache.keep(*entry(n, 5_000))

    threads = [threading.Thread(target=write, args=(20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (found,) = (each for each in stored() if each.kind == "remote")
    assert 0 < found.bytes <= 50_000


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_the_cache_can_be_disabled_and_its_limit_is_checked(limit, web, monkeypatch):
    monkeypatch.setenv(cache.LIMIT, limit)
    if limit == "0":
        assert find(f"{web.address}{web.image}").read() == web.files[web.image]
        assert stored() == []
    else:
        with pytest.raises(CacheError):
            open_source(f"{web.address}/photos.zip")


def test_the_cache_is_listed_and_cleared(web):
    find(f"{web.address}{web.image}").read()
    (listed,) = json.loads(zoo_("cache", "list", "--format", "json").stdout)
    assert (listed["kind"], listed["records"]) == ("remote", 1)
    assert listed["bytes"] == len(web.files[web.image]) + 16
    zoo_("cache", "clear", "remote")
    assert json.loads(zoo_("cache", "list", "--format", "json").stdout) == []


def test_other_systems_of_fsspec_notice_a_change():
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("red/1.png", "blue/1.png"):
        memory.pipe(f"/mine/{name}", name.encode())
    source = open_source("memory://mine")
    samples = {sample.name: sample for sample in source.read("train").samples}
    assert samples["red/1.png"].read() == b"red/1.png"
    file = find("memory://mine/blue/1.png")
    other = RemoteFile(file.address, file.size, "another")
    with pytest.raises(UnavailableError):
        other.read()


class AnswerError(Exception):
    """An error as that of a system's library."""

    status_code = 403


def test_errors_of_other_systems_are_told_apart():
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    asked = []

    class Denying(MemoryFileSystem):
        protocol = "denying"

        def info(self, path, **_):
            asked.append(path)
            raise AnswerError("the key is wrong\nof request 12")

    class WithoutAccount(MemoryFileSystem):
        protocol = "accountless"

        def __init__(self, **_):
            raise ValueError("no account")

    fsspec.register_implementation("denying", Denying)
    fsspec.register_implementation("accountless", WithoutAccount)
    with pytest.raises(UnavailableError) as caught:
        find("denying://mine/photos.zip")
    assert len(asked) == 1
    assert "the key is wrong" in str(caught.value)
    with pytest.raises(DataError) as other:
        find("accountless://mine/photos.zip")
    assert "no account" in str(other.value)
    with pytest.raises(DataError) as unknown:
        find("nosuch://mine/photos.zip")
    assert unknown.value.hint != other.value.hint


# Object storage.


@pytest.mark.medium
def test_object_storage_has_the_images_of_every_kind_of_source(bucket, local):
    expected = read(local / "photos")
    place = f"s3://{BUCKET}/data"
    folder = read(f"{place}/photos")
    assert contents(folder) == contents(expected)
    assert [s.name for s in folder.val] == [s.name for s in expected.val]
    for name in ("table.csv", "photos.zip", "images.parquet", "shards"):
        found = read(f"{place}/{name}")
        assert contents(found) == contents(expected), name
    assert check_data(f"{place}/photos").images == 24
    images, others = unlabelled(f"{place}/photos") or ([], [])
    assert (len(images), others) == (24, [])
    assert len(open_source(f"{place}/shards/train-*.tar").read("train").samples) == 18


@pytest.mark.medium
def test_many_images_in_a_folder_of_object_storage_are_columns(s3, local, monkeypatch):
    s3.add(local / "photos", "data/below/photos")
    place = f"s3://{BUCKET}/data"
    expected = open_source(place).read("train").samples
    s3.requests.clear()
    few_in_columns(monkeypatch)
    samples = open_source(place).read("train").samples
    assert s3.counts() == {"LIST": 1}
    assert len(samples) == 24
    assert isinstance(samples, Columns)
    assert described(samples) == described(expected)


@pytest.mark.medium
def test_a_folder_of_object_storage_is_listed_without_reading_images(bucket):
    source = open_source(f"s3://{BUCKET}/data/photos")
    samples = source.read("train").samples
    assert (len(samples), bucket.counts()) == (24, {"LIST": 1})
    read_splits(source, val_split=0.25, seed=0)
    assert bucket.counts() == {"LIST": 1, "GET": 24}
    bucket.requests.clear()
    source = open_source(f"s3://{BUCKET}/data/table.csv")
    # The folders of three classes have fewer rows than pay to be listed.
    assert bucket.counts()["GET"] == 1


@pytest.mark.medium
def test_faults_of_object_storage(bucket, local):
    key = f"data/photos/{next((local / 'photos').rglob('*.png')).relative_to(local / 'photos')}"
    bucket.faults = {key: [503, 503]}
    assert contents(read(f"s3://{BUCKET}/data/photos")) == contents(read(local / "photos"))
    clear("remote")
    bucket.faults = {key: [503] * 100}
    with pytest.raises(UnavailableError):
        read(f"s3://{BUCKET}/data/photos")
    bucket.faults = {}
    clear("remote")
    source = open_source(f"s3://{BUCKET}/data/photos")
    other = next(f for f in (local / "photos").rglob("*.png") if not key.endswith(f.name))
    bucket.client().put_object(Bucket=BUCKET, Key=key, Body=other.read_bytes())
    with pytest.raises(UnavailableError):
        read_splits(source, val_split=0.25, seed=0)


@pytest.mark.medium
def test_missing_and_denied_credentials_are_one_message(bucket, monkeypatch):
    place = f"s3://{BUCKET}/data/photos"
    bucket.faults = {"": [403] * 10}
    result = zoo_("finetune", "--data", place, "--out", "run", code=2)
    assert "Traceback" not in result.output
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    storage._system.cache_clear()
    bucket.faults, before = {}, len(bucket.requests)
    result = zoo_("finetune", "--data", place, "--out", "run", code=2)
    assert "credentials" in result.output
    assert len(bucket.requests) == before
    assert not Path("run").exists()


@pytest.mark.medium
def test_what_object_storage_does_not_have_is_one_error(s3):
    for place in (f"s3://{BUCKET}/none", f"s3://{BUCKET}/none.zip", "s3://nosuchbucket/none"):
        with pytest.raises(DataError):
            open_source(place)
