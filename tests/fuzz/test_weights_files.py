"""Weights files that are no run: refused in words, nothing in them is run."""

import io
from pathlib import Path

import torch
from hypothesis import strategies as st

from tests.conftest import TINY
from tests.fuzz.conftest import fuzz, run_cli, sizes
from tests.fuzz.strategies import mutated


def saved(**options: object) -> bytes:
    stream = io.BytesIO()
    torch.save({"a.weight": torch.zeros(3), "b.bias": torch.ones(1)}, stream, **options)
    return stream.getvalue()


def refused(name: str):
    def check(content: bytes) -> None:
        Path(name).write_bytes(content)
        command = ["finetune", "--backbone", TINY, "--weights", name, "--data", "photos"]
        assert run_cli([*command, "--dry-run"]).code == 2

    return check


@sizes(400)
def test_pytorch_files_with_changed_bytes(examples, photos):
    Path("photos").symlink_to(photos)
    files = mutated(saved()) | mutated(saved(_use_new_zipfile_serialization=False))
    fuzz(refused("net.pth"), files, examples)


@sizes(200)
def test_any_bytes(examples, photos):
    Path("photos").symlink_to(photos)
    starts = st.sampled_from([b"", b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04", b"ustar"])
    files = st.tuples(starts, st.binary(max_size=400)).map(b"".join)
    fuzz(refused("net.pt"), files, examples)
    fuzz(refused("net.safetensors"), files, examples)
