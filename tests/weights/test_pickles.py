"""A PyTorch file that asks to run something is refused; nothing in it is run."""

import io
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, zoo_
from zoo import weights
from zoo.errors import WeightsError


class Runs:
    """Unpickled, it calls a function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


SYSTEM = Runs(os.system, "touch executed")


def torch_zip(path: Path, payload: object) -> None:
    torch.save({"weight": torch.zeros(2), "x": payload}, path)


def torch_legacy(path: Path, payload: object) -> None:
    torch.save({"weight": torch.zeros(2), "x": payload}, path, _use_new_zipfile_serialization=False)


def torch_tar(path: Path, payload: object) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(payload if name == "pickle" else 0)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def plain(protocol: int):
    def write(path: Path, payload: object) -> None:
        path.write_bytes(pickle.dumps([payload], protocol))

    return write


@pytest.mark.parametrize(
    "write", [torch_zip, torch_legacy, torch_tar, plain(0), plain(2), plain(4), plain(5)]
)
@pytest.mark.parametrize(
    "payload",
    [
        SYSTEM,
        Runs(eval, "open('executed', 'w')"),
        Runs(subprocess.check_call, ["touch", "executed"]),
        Runs(Path("executed").touch),
    ],
)
def test_what_a_file_asks_to_run_is_not_run(tmp_path, write, payload):
    write(tmp_path / "evil.pth", payload)
    with pytest.raises(WeightsError) as error:
        weights.read_state_dict(tmp_path / "evil.pth")
    message = str(error.value)
    assert "evil.pth" in message
    assert "\n" not in message
    assert "\x1b" not in message
    assert not Path("executed").exists()


def test_the_environment_and_torchs_own_list_open_no_way_around(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch_zip(tmp_path / "evil.pth", SYSTEM)
    with pytest.raises(WeightsError, match=r"system"):
        weights.read_state_dict(tmp_path / "evil.pth")
    assert not Path("executed").exists()


def test_the_command_line_says_it_in_one_line(tmp_path, photos):
    torch_zip(tmp_path / "evil.pth", SYSTEM)
    args = ["finetune", "--backbone", TINY, "--data", photos, "--weights", tmp_path / "evil.pth"]
    result = zoo_(*map(str, args), "--dry-run", code=2)
    assert "evil.pth" in result.stderr
    assert not Path("executed").exists()


def test_a_torchscript_archive_is_a_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("net/constants.pkl", pickle.dumps(()))
        archive.writestr("net/data.pkl", pickle.dumps({}))
        archive.writestr("net/code/__torch__.py", "")
    with pytest.raises(WeightsError, match="TorchScript"):
        weights.read_state_dict(tmp_path / "net.pt")


def test_an_archive_that_unpacks_to_memorys_end_is_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10**7)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(WeightsError, match=r"bomb\.pth"):
        weights.read_state_dict(tmp_path / "bomb.pth")


@pytest.mark.parametrize("write", [torch_zip, torch_legacy])
def test_a_truncated_file_is_refused(tmp_path, write):
    write(tmp_path / "whole.pth", torch.zeros(3))
    content = (tmp_path / "whole.pth").read_bytes()
    for length in range(0, len(content) - 1, 37):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(WeightsError, match=r"cut\.pth"):
            weights.read_state_dict(tmp_path / "cut.pth")


def test_a_text_that_claims_terabytes_is_refused(tmp_path):
    claim = b"\x80\x04\x8d" + struct.pack("<Q", 2**45) + b"x."
    (tmp_path / "a.pth").write_bytes(claim)
    with pytest.raises(WeightsError, match=r"a\.pth"):
        weights.read_state_dict(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "make", [lambda p: os.mkfifo(p), lambda p: p.symlink_to("/dev/zero"), Path.mkdir]
)
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth"):
        weights.read_state_dict(tmp_path / "net.pth")


def test_zoo_and_its_plugins_neither_write_nor_unpickle_but_in_one_place():
    root = Path(__file__).parents[2]
    files = [*(root / "zoo").rglob("*.py"), *(root / "plugins").rglob("*.py")]
    calls = ("torch.load(", "torch.save(", "pickle.load", "pickle.dump", "allow_pickle=True")
    using = {(f.name, c) for f in files for c in calls if c in f.read_text()}
    assert using == {("files.py", "torch.load(")}
    assert "weights_only=True" in (root / "zoo" / "weights" / "files.py").read_text()
