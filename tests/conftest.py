"""Real images, real tiny models, a closed network."""

import dataclasses
import math
import os
import signal
import socket
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import zoo
from zoo import plugins
from zoo.backbone import Preprocess
from zoo.cli import main
from zoo.data.transforms import eval_transform, to_input
from zoo.engines import choice
from zoo.exporter import Exporter
from zoo.tasks import Metrics

if "PYTEST_XDIST_WORKER" in os.environ:
    # Side by side, processes of as many threads as there are cores wait for each other.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is inherited by what a shell runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Begins a command line that runs what follows in two processes, on a port of their own.
IN_TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

#: A real backbone of 0.4 M parameters, 160 pixels; 32 are enough for it.
TINY = "timm/test_efficientnet"

#: What makes a run take a second: no pretrained weights, small pictures.
QUICK = {
    "backbone": TINY,
    "weights": "none",
    "image_size": 32,
    "epochs": 1,
    "batch_size": 8,
    "device": "cpu",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A test that is slow is not medium too, so that some of its parameters can be slower."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.own_markers[:] = [mark for mark in item.own_markers if mark.name != "medium"]


def zoo_(*args: object, code: int = 0, stdin: str | None = None) -> Result:
    """Call the command line, which has to end with that exit code."""
    result = CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def wandb_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B writes below the current folder, which it remembers until it is torn down."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    wandb.teardown()


@pytest.fixture(autouse=True)
def _closed_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name but this machine's can be resolved."""
    resolve = socket.getaddrinfo

    def only_loopback(host, *args, **kwargs):
        if host in ("127.0.0.1", "localhost", "::1"):
            return resolve(host, *args, **kwargs)
        raise socket.gaierror(-2, "Name or service not known (closed by the tests)")

    monkeypatch.setattr(socket, "getaddrinfo", only_loopback)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What fixtures of modules and of the session compute is kept nowhere else either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts in an empty folder, with empty caches for weights."""
    folder = tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    monkeypatch.setenv("ZOO_HOME", str(folder / "zoo"))


@pytest.fixture
def fresh_plugins():
    """Forget which plugins were found, before and after."""

    def forget() -> None:
        plugins.load.cache_clear()
        plugins._imported.cache_clear()
        plugins._entry_points.cache_clear()
        plugins._with_tag.cache_clear()

    forget()
    yield forget
    forget()


def write_plugin(folder: Path, distribution: str, entry_point: str, module: str, code: str) -> None:
    """A plugin in that folder as pip would put it there: a module and its .dist-info."""
    (folder / f"{module}.py").write_text(textwrap.dedent(code))
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[zoo]\n{entry_point} = {module}\n")


@pytest.fixture
def install(tmp_path, monkeypatch, fresh_plugins):
    """`write_plugin` for this process."""

    def install(distribution: str, entry_point: str, module: str, code: str) -> None:
        write_plugin(tmp_path, distribution, entry_point, module, code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)
        fresh_plugins()

    return install


def validation(
    accuracy: float, *, loss: float = 1.0, balanced: float | None = None, f1: float | None = None
) -> Metrics:
    """Metrics as a validation of 100 images with one label each gives them."""
    return Metrics(
        images=100,
        values={
            "loss": loss,
            "accuracy": accuracy,
            "balanced_accuracy": accuracy if balanced is None else balanced,
            "f1": accuracy if f1 is None else f1,
        },
        error=math.sqrt(accuracy * (1 - accuracy) / 100),
    )


def save_photo(path: Path, colour: tuple[int, int, int], seed: int) -> Path:
    """A noisy picture of mostly one colour, which a tiny network can learn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-40, 40, (48, 64, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


COLOURS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}


def make_photos(root: Path, per_class: int, first_seed: int = 0) -> Path:
    """`root/CLASS/N.png` for the three colours."""
    for label, (name, colour) in enumerate(COLOURS.items()):
        for n in range(per_class):
            save_photo(root / name / f"{n}.png", colour, first_seed + 1000 * label + n)
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder: 3 classes of 10 photos. Not to be changed."""
    return make_photos(tmp_path_factory.mktemp("photos") / "colours", 10)


@pytest.fixture(scope="session")
def split_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train and val: 3 classes of 8 and 4 photos. Not to be changed."""
    root = tmp_path_factory.mktemp("split") / "colours"
    make_photos(root / "train", 8)
    make_photos(root / "val", 4, first_seed=500)
    return root


@pytest.fixture(scope="session")
def run(split_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> zoo.Run:
    """A finished run on `split_photos`. Not to be changed."""
    out = tmp_path_factory.mktemp("run") / "run"
    return zoo.finetune(split_photos, out=out, **{**QUICK, "epochs": 2})


def uncalibrated(run):
    """The run without its temperature: its losses are those of training."""
    return dataclasses.replace(run, info=dataclasses.replace(run.info, temperature=1.0))


def eval_input(image: Image.Image, preprocess: Preprocess) -> torch.Tensor:
    """What a model gets of one RGB image in validation, (3, H, W) float32."""
    base = torch.from_numpy(eval_transform(preprocess).prepare(image).copy())
    return to_input(base.permute(2, 0, 1)[None], preprocess, torch.device("cpu"))[0]


class Doubled(torch.nn.Module):
    """What a defective converter makes of a network."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return 2 * self.model(images)


@pytest.fixture
def exporters(monkeypatch):
    """Runtimes that are torch itself: one right, one with wrong results, one that can't be used."""
    kept = {}

    def exporter(wrap):
        def write(model, example, path, metadata):
            kept[path.name] = wrap(model)
            path.write_bytes(b"network")

        def open_(path):
            model = kept[path.name]
            return lambda array: model(torch.from_numpy(array)).detach().numpy()

        return Exporter(suffix=".x", write=write, open=open_, runtime="x")

    def broken(model):
        raise ValueError("an operator is missing")

    known = {
        "right": ("a", exporter(lambda model: model)),
        "wrong": ("b", dataclasses.replace(exporter(Doubled), suffix=".y")),
        "broken": ("c", exporter(broken)),
    }
    monkeypatch.setattr(choice, "runtimes", lambda: known)
    return known
