"""Sources that plugins declare: a run from one, and what one does wrong is named."""

import io
import tarfile

import pytest

import zoo
from tests.conftest import QUICK
from zoo.errors import DataError, PluginError
from zoo.events import Note

TAR = """
import functools
import tarfile

import zoo


@zoo.hookimpl
def zoo_sources():
    return {"tar": lambda data: TarSource(data) if data.endswith(".tar") else None}


class TarSource:
    splits = ("train",)

    def __init__(self, data):
        self.name, self.file = data, data

    def read(self, split):
        with tarfile.open(self.file) as tar:
            names = [member.name for member in tar if member.isfile()]
        return zoo.Part(
            name=self.name,
            issues=[zoo.Issue(kind="skipped", name="red/a.txt", reason="not an image")],
            samples=[
                zoo.Sample(
                    name=name,
                    labels=(name.split("/")[0],),
                    load=functools.partial(load, self.file, name),
                )
                for name in names
            ],
        )


def load(file, name):
    with tarfile.open(file) as tar:
        return tar.extractfile(name).read()
"""


@pytest.fixture
def archive(photos, tmp_path):
    file = tmp_path / "photos.tar"
    with tarfile.open(file, "w") as tar:
        for image in sorted(photos.rglob("*.png")):
            tar.add(image, image.relative_to(photos))
        text = tarfile.TarInfo("red/notes.png")
        text.size = 4
        tar.addfile(text, io.BytesIO(b"text"))
    return file


@pytest.mark.medium
def test_a_run_from_a_plugins_source_is_that_of_the_same_files(install, archive, photos):
    install("zoo-tar", "tar", "zoo_tar", TAR)
    events = []
    run = zoo.finetune(str(archive), out="tar", listen=events.append, **QUICK)
    warned = [e.text for e in events if isinstance(e, Note) and e.warning]
    for name in ("red/notes.png: ", "red/a.txt: "):
        assert any(name in text for text in warned)
    plain = zoo.finetune(photos, out="plain", **QUICK)
    assert run.info.val_sha256 == plain.info.val_sha256
    assert run.info.val_metrics == plain.info.val_metrics
    assert run.info.recipe.data == str(archive)
    assert run.evaluate().accuracy == plain.evaluate().accuracy


def test_a_source_that_fails_is_named(install):
    code = """
    import zoo


    @zoo.hookimpl
    def zoo_sources():
        return {"bad": lambda data: 1 / 0}
    """
    install("zoo-bad", "bad", "zoo_bad", code)
    with pytest.raises(PluginError, match=r"plugin bad .*: ZeroDivisionError"):
        zoo.finetune("bad:x", **QUICK)


def test_without_a_source_for_it_the_data_does_not_exist(install):
    install("zoo-tar", "tar", "zoo_tar", TAR)
    with pytest.raises(DataError, match="rar:x"):
        zoo.finetune("rar:x", **QUICK)
