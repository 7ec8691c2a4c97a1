"""What the environment says to accelerate: zoo's own settings count, and what is left is noted."""

from pathlib import Path

import pytest

import zoo
from tests.conftest import zoo_
from tests.pipeline.conftest import flags, sha256, start
from zoo.errors import TrainingError
from zoo.machine.processes import numeric_settings
from zoo.runs.checkpoint_file import read_checkpoint

#: Each of which would have accelerate compute something else.
SETTINGS = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_DYNAMO_BACKEND": "eager",
}

ENGINES = ["DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"]


@pytest.mark.medium
def test_settings_of_accelerates_change_no_weight_and_are_named(split_photos, monkeypatch):
    fields = start(train="finetune")
    plain = zoo.finetune(split_photos, out="plain", **fields)
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match=next(iter(SETTINGS))) as warned:
        run = zoo.finetune(split_photos, out="run", **fields)
    assert sha256(run) == sha256(plain)
    assert Path("run/recipe.toml").read_text() == Path("plain/recipe.toml").read_text()
    said = "\n".join(str(each.message) for each in warned)
    assert all(f"{name}={value}" in said for name, value in SETTINGS.items())


def test_what_accelerate_launch_always_writes_is_no_news(split_photos, monkeypatch):
    launched = {
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "no",
        "ACCELERATE_USE_CPU": "True",
    }
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    asked = flags({**start(train="probe"), "data": split_photos})
    result = zoo_("finetune", "--dry-run", *asked)
    assert "ACCELERATE" not in result.output


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_zoo_does_not_support_is_refused(split_photos, monkeypatch, engine):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    asked = flags({**start(), "data": split_photos, "out": "run"})
    result = zoo_("finetune", *asked, code=2)
    assert f"ACCELERATE_USE_{engine}" in result.stderr
    assert not Path("run").exists()


@pytest.mark.medium
def test_sagemakers_data_parallelism_is_refused_where_it_is_asked_for(split_photos, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_SAGEMAKER", "true")
    zoo.finetune(split_photos, out="plain", **start(train="probe"))
    monkeypatch.setenv("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "SMDATAPARALLEL")
    with pytest.raises(TrainingError, match="ACCELERATE_USE_SAGEMAKER"):
        zoo.finetune(split_photos, out="run", **start(train="probe"))


@pytest.mark.medium
def test_settings_that_choose_kernels_are_recorded(split_photos, monkeypatch):
    before = numeric_settings()
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    zoo.finetune(split_photos, out="run", **start(train="probe"))
    noted = read_checkpoint(Path("run")).about["environment"]
    assert before.items() | {("NVIDIA_TF32_OVERRIDE", "0")} <= noted.items()
