"""zoo bench: what it prints, and that its figures fit together."""

import json
import re
from dataclasses import fields

import pytest

from tests.conftest import TINY, zoo_
from zoo.bench import Setup

QUICK = ["--device=cpu", "--image-size=32", "--seconds=0.02"]


def test_json_holds_the_machine_the_work_and_every_speed():
    result = json.loads(
        zoo_("bench", TINY, *QUICK, "--batch-size=1", "--batch-size=3", "--format=json").stdout
    )
    speeds = result.pop("speeds")
    assert result.keys() == {field.name for field in fields(Setup)} | {"peak_memory_bytes"}
    assert (result["backbone"], result["height"], result["folded"]) == (TINY, 32, 13)
    assert 2.5 < result["training_flops"] / result["forward_flops"] < 3
    assert [(s["what"], s["batch_size"]) for s in speeds] == [
        (what, size)
        for size in (1, 3)
        for what in ("forward", "forward, batch norm folded", "training step")
    ]
    for speed in speeds:
        work = result["training_flops" if "training" in speed["what"] else "forward_flops"]
        assert speed["flops_per_second"] == pytest.approx(speed["images_per_second"] * work)
        assert speed["share_of_peak"] == pytest.approx(speed["flops_per_second"] / result["peak"])
        assert speed["first_call_seconds"] is None


def test_text_says_the_same_with_units():
    text = zoo_("bench", TINY, *QUICK, "--batch-size=2").stdout
    assert re.search(r"^peak +[\d,]+ GFLOP/s in fp32, multiplying matrices$", text, re.MULTILINE)
    assert re.search(
        r"^backbone +timm/test_efficientnet, \d+,\d+ parameters, random", text, re.MULTILINE
    )
    assert re.search(r"^training step +2 +[\d,.]+ +[\d,.]+ +\d+%$", text, re.MULTILINE)
    assert re.search(r"^peak memory +\d+\.\d+ GB", text, re.MULTILINE)


def test_a_backbone_without_batch_norm_has_nothing_to_fold():
    text = zoo_("bench", "timm/test_vit", "--device=cpu", "--seconds=0.02", "--batch-size=1").stdout
    assert len(re.findall(r"^forward", text, re.MULTILINE)) == 1


@pytest.mark.slow
def test_a_backbone_with_auxiliary_heads_trains_too():
    args = ["--device=cpu", "--image-size=64", "--seconds=0.02", "--batch-size=2"]
    assert "training step" in zoo_("bench", "torchvision/googlenet", *args).stdout


@pytest.mark.slow
def test_compile_says_what_it_costs_and_when_it_pays():
    result = json.loads(
        zoo_("bench", TINY, *QUICK, "--batch-size=2", "--compile", "--format=json").stdout
    )
    compiled = [s for s in result["speeds"] if s["what"].endswith(", compiled")]
    assert [s["what"] for s in compiled] == [
        "forward, batch norm folded, compiled",
        "training step, compiled",
    ]
    eager = {s["what"]: s for s in result["speeds"]}
    for speed in compiled:
        before = eager[speed["what"].removesuffix(", compiled")]
        assert speed["first_call_seconds"] > 1
        faster = speed["images_per_second"] > before["images_per_second"]
        assert (speed["pays_after_images"] is not None) == faster


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["resnet81"], ["resnet81", "resnet18"]),
        ([TINY, "--image-size=4"], ["image_size = 4", "8"]),
        (["torchvision/squeezenet1_1", "--image-size=16"], ["squeezenet1_1", "16 x 16"]),
        ([TINY, "--batch-size=0"], ["--batch-size", "0", "x>=1"]),
        ([TINY, "--seconds=0"], ["--seconds", "0.0", "x>0"]),
        ([TINY, "--device=tpu"], ["--device", "tpu", "cpu"]),
        ([TINY, "--device=cpu", "--precision=fp16"], ["fp16", "GPU"]),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_code_2(args, named):
    result = zoo_("bench", *args, code=2)
    assert [name for name in named if name not in result.stderr] == []
    assert "Traceback" not in result.output
