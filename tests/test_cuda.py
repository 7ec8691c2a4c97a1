"""What differs on NVIDIA GPUs; skipped without one."""

import numpy as np
import pytest
import torch

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.conftest import check_same, flags, hear, sha256, start
from tests.pipeline.crash import crashed_and_resumed
from zoo.errors import TrainingError
from zoo.events import EpochEnd, StepEnd, ignore
from zoo.machine.device import choose_device

pytestmark = [
    pytest.mark.medium,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU"),
]


def test_runs_on_different_devices_in_one_process(split_photos):
    for n, device in enumerate(("cpu", "cuda", "cpu", "cuda")):
        fields = {**QUICK, "device": device}
        run = zoo.finetune(split_photos, out=f"run{n}", listen=ignore, **fields)
        assert {p.device.type for p in run.model.parameters()} == {device}


def test_fp32_is_that_of_a_cpu_but_for_rounding(split_photos):
    fields = {**QUICK, "image_size": 64, "train": "probe", "weights": "none"}
    zoo.finetune(split_photos, out="run", listen=ignore, **fields)
    images = sorted((split_photos / "val").rglob("*.png"))
    cpu, gpu = (zoo.load("run", device=device) for device in ("cpu", "cuda"))
    one, other = cpu.embed(images), gpu.embed(images)
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())
    for one, other in zip(cpu.predict(images), gpu.predict(images), strict=True):
        assert other.distance == pytest.approx(one.distance, rel=1e-4)
        assert other.probability == pytest.approx(one.probability, abs=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        {"precision": "bf16", "ema_decay": 0.9, "mixup": 0.2, "clip_grad": 0.5},
        {"precision": "fp16", "grad_accumulation": 2, "average_epochs": 2},
        {"precision": "fp32", "workers": 2, "augment": "strong"},
        {"backbone": "timm/test_vit", "lora_rank": 2},
    ],
    ids=lambda more: "-".join(more),
)
def test_a_deterministic_run_is_resumed_to_the_same_weights(split_photos, more):
    fields = start(more.get("backbone", QUICK["backbone"]), train="finetune", epochs=3)
    fields |= {"device": "cuda", "deterministic": True, "data": split_photos, **more}
    try:
        undisturbed = zoo.finetune(out="whole", listen=ignore, **fields)
        run = crashed_and_resumed("run", fields, [(3, StepEnd), (1, EpochEnd)])
        assert sha256(run) == sha256(undisturbed)
    finally:
        torch.use_deterministic_algorithms(False)


def test_precision_of_a_prediction(split_photos):
    run = zoo.finetune(split_photos, out="run", listen=ignore, **{**QUICK, "device": "cuda"})
    plan = zoo_("predict", run.path, split_photos / "val", "--precision", "bf16", "--format", "csv")
    assert len(plan.stdout.splitlines()) == 13
    assert choose_device("auto").type == "cuda"


@pytest.fixture
def limit_memory():
    """Return a function that limits what this process may allocate on the GPU, in MiB."""

    def limit(mib):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(mib * 2**20 / total, 1.0))

    yield limit
    limit(float("inf"))


def test_a_gpu_whose_memory_ends_goes_on(photos, limit_memory):
    fields = {
        **QUICK,
        "batch_norm": "frozen",
        "train": "finetune",
        "image_size": 512,
        "batch_size": 24,
        "precision": "fp32",
        "cache_size": 0.0,
        "device": "cuda",
    }
    whole, notes, _ = hear(photos, "whole", **fields)
    assert not out_of_memory(notes)
    images = sorted(photos.rglob("*.png"))
    limit_memory(300)
    parts, notes, _ = hear(photos, "parts", **fields)
    assert out_of_memory(notes)
    check_same(parts, whole, atol=1e-4)
    limit_memory(30)
    with pytest.raises(TrainingError, match="memory for logits"):
        list(zoo.load("whole", device="cuda").predict(images))


def out_of_memory(notes):
    return [note for note in notes if "ran out of memory" in note]


def test_a_gpu_without_memory_is_one_clear_error(split_photos, limit_memory):
    limit_memory(10)
    command = ["finetune", "--data", split_photos, "--out", "run"]
    result = zoo_(*command, *flags({**QUICK, "image_size": 1024, "device": "cuda"}), code=2)
    assert "memory" in result.stderr
    assert "Traceback" not in result.output
