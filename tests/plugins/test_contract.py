"""A network whose output has parts, and whose library reads files of its own in a run folder."""

import copy
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

import zoo
from tests.conftest import IN_TWO, QUICK, write_plugin, zoo_
from tests.pipeline.conftest import flags
from tests.pipeline.crash import Crash, check_equal, crash_at
from zoo.events import StepEnd

PLUGIN = """
import operator

import zoo


def build(num_classes, pretrained):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
            self.body = nn.Conv2d(8, 8, 3)
            self.fc = nn.Linear(8, num_classes or 10)

        def forward(self, x):
            features = self.body(self.stem(x)).mean((2, 3))
            return {"features": features, "scores": self.fc(features)}

    return Net()


def files(class_names, preprocess):
    return {"acme.json": {"labels": list(class_names), "size": preprocess.size}}


@zoo.hookimpl
def zoo_backbones():
    yield zoo.Backbone(
        name="parts",
        build=build,
        head="fc",
        preprocess=zoo.Preprocess(size=32),
        stages=("stem", "body"),
        logits=operator.itemgetter("scores"),
        files=files,
    )
"""

#: The same with a part that the forward pass does not use.
UNUSED = PLUGIN.replace(
    "self.fc = ", "self.mask = nn.Parameter(torch.zeros(8))\n            self.fc = "
).replace("logits=", 'unused=("mask",), logits=')

#: The same with a parameter in a stage that is not used, and not declared.
SPARE = PLUGIN.replace(
    "self.fc = ",
    'self.stem.register_parameter("spare", nn.Parameter(torch.ones(8)))\n            self.fc = ',
)

FIELDS = {**QUICK, "backbone": "acme/parts", "image_size": None}


@pytest.fixture
def acme(install):
    install("acme-parts", "acme", "acme_parts", PLUGIN)


@pytest.mark.parametrize("fields", [{}, {"freeze": "stem"}, {"freeze": "backbone"}], ids=str)
@pytest.mark.medium
def test_a_network_whose_output_has_parts_is_trained_resumed_and_read_back(
    fields, acme, photos, tmp_path
):
    fields = {**FIELDS, **fields, "checkpoint_every": 1}
    run = zoo.finetune(photos, out=tmp_path / "run", **fields)
    with pytest.raises(Crash):
        zoo.finetune(photos, out=tmp_path / "crashed", listen=crash_at(2, StepEnd), **fields)
    check_equal(zoo.resume(tmp_path / "crashed"), run)
    again = zoo.load(run.path)
    assert again.predict(photos / "red" / "0.png") == run.predict(photos / "red" / "0.png")


@pytest.mark.medium
def test_logits_are_taken_by_copies_compiled_and_exported_ones_too(acme, photos, tmp_path):
    model = zoo.build("acme/parts", 3, weights="none").eval()
    assert set(model.state_dict()) >= {"stem.0.weight", "body.weight", "fc.weight"}
    images = torch.rand(2, 3, 32, 32)
    logits = model(images)
    assert logits.shape == (2, 3)
    assert torch.equal(copy.deepcopy(model)(images), logits)
    exported = torch.export.export(model, (images,)).module()
    assert torch.allclose(exported(images), logits, atol=1e-6)
    zoo_("bench", "acme/parts", "--seconds", "0.1", "--device", "cpu")


@pytest.mark.medium
def test_the_files_of_its_library_are_written_and_verified(acme, photos, tmp_path):
    run = zoo.finetune(photos, out=tmp_path / "run", **{**FIELDS, "train": "probe"})
    file = run.path / "acme.json"
    assert json.loads(file.read_text()) == {"labels": ["blue", "green", "red"], "size": 32}
    assert json.loads((run.path / "config.json").read_text())["label_names"][0] == "blue"
    found = {f.file: f.state for f in zoo.verify(run.path)}
    assert found["acme.json"] == found["config.json"] == "ok"
    for old, new in [("green", "brown"), ("{", '{"auto_map": {"AutoModel": "evil.Net"},')]:
        text = file.read_text()
        file.write_text(text.replace(old, new))
        assert {f.file for f in zoo.verify(run.path) if f.state == "wrong"} == {"acme.json"}
        file.write_text(text)
    file.unlink()
    assert {f.file for f in zoo.verify(run.path) if f.state == "wrong"} == {"acme.json"}


def test_a_part_that_is_not_used_keeps_its_values(install, photos, tmp_path):
    install("acme-parts", "acme", "acme_unused", UNUSED)
    run = zoo.finetune(photos, out=tmp_path / "run", **FIELDS)
    assert torch.equal(run.model.mask, torch.zeros(8))
    assert zoo.load(run.path).predict(photos / "red" / "0.png")


@pytest.mark.slow
@pytest.mark.parametrize(("code", "said"), [(UNUSED, "mask"), (SPARE, "stem.spare")])
def test_two_processes_train_beside_a_part_that_is_not_used(code, said, photos, tmp_path):
    write_plugin(tmp_path, "acme-parts", "acme", "acme_unused", code)
    paths = [str(tmp_path), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    paths.append(str(Path(__file__).parents[2]))
    fields = {**FIELDS, "data": photos, "out": "run", "train": "finetune", "epochs": 2}
    done = subprocess.run(
        [*IN_TWO, "-m", "zoo", "finetune", *flags(fields)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert Path("run/model.safetensors").is_file()
    # Declared, it does not train, and need not be found.
    assert (said in done.stdout) == (code == SPARE)
