"""What differs on NVIDIA GPUs; skipped without one."""

import numpy as np
import pytest
import torch

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.conftest import sha256, start
from tests.pipeline.crash import crashed_and_resumed
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
