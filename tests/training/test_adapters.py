"""Adapters of low rank (LoRA), which train beside the frozen backbone and are merged in the run."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

import zoo
from tests.conftest import uncalibrated, zoo_
from tests.pipeline.conftest import flags, start
from zoo.events import Note, StepEnd
from zoo.models.depth import depths
from zoo.planning import Plan
from zoo.recipe import Recipe
from zoo.runs.checkpoint_file import read_checkpoint
from zoo.training.adapters import attached, make_adapters, merged, merged_state
from zoo.training.ema import copied
from zoo.training.snapshot import load_state
from zoo.weights import read_state_dict

RANK = 2


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    """A vision transformer trained with adapters and averaged weights.

    Attributes:
        run: The run.
        start: State dict that it started from.
        plan: Its plan.
        steps: Tensors of the checkpoint after each step.
    """
    found = SimpleNamespace(steps=[])

    def listen(event):
        match event:
            case Plan():
                found.plan = event
            case StepEnd():
                found.steps.append(read_checkpoint(Path("run")).tensors)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("adapted"))
        fields = start("timm/test_vit", train="finetune", epochs=2, lora_rank=RANK, lr=0.01)
        fields |= {"ema_decay": 0.5, "checkpoint_every": 1}
        found.start = read_state_dict(Path(fields["weights"]))
        run = zoo.finetune(photos, out="run", listen=listen, **fields)
        found.run = zoo.load(run.path.absolute())
    return found


def test_a_run_holds_the_merged_network_under_its_own_names(adapted):
    run, before = adapted.run, adapted.start
    after = read_state_dict(run.path / "model.safetensors")
    assert after.keys() == before.keys()
    changed = {n for n in after if n != "pos_embed" and not torch.equal(after[n], before[n])}
    layers = {name for name in changed if not name.startswith("head.")}
    assert {f"blocks.0.{n}.weight" for n in ("attn.qkv", "attn.proj", "mlp.fc1")} <= layers
    for name in layers:
        delta = (after[name] - before[name]).flatten(1).double()
        assert torch.linalg.matrix_rank(delta, rtol=1e-4) <= RANK, name


def test_a_merged_run_loads_in_timm_and_scores_as_when_it_was_trained(adapted):
    run = adapted.run
    model = timm.create_model(f"local-dir:{run.path}", pretrained=True).eval()
    pixels = torch.rand(4, 3, *run.info.preprocess.height_width)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), run.model.cpu()(pixels), atol=1e-5, rtol=0)
    evaluation = uncalibrated(run).evaluate()
    assert evaluation.accuracy == run.info.val_accuracy
    assert evaluation.loss == pytest.approx(run.info.val_metrics["loss"], abs=1e-5)
    assert (run.info.recipe.lora_rank, run.info.recipe.lora_alpha) == (RANK, 2.0 * RANK)


def test_the_parameters_of_the_plan_are_those_that_train(adapted):
    planned = sum(group.parameters for group in adapted.plan.groups if not group.frozen)
    tensors = adapted.steps[0]
    moments = {name: t for name, t in tensors.items() if name.endswith("/exp_avg")}
    assert sum(tensor.numel() for tensor in moments.values()) == planned
    assert all("lora_" in name or name.startswith("optimizer/head.") for name in moments)
    first, last = adapted.steps[0], adapted.steps[-1]
    for name, tensor in first.items():
        if name.startswith("model/") and "lora_" not in name and "/head." not in name:
            assert torch.equal(tensor, last[name]), name


class Net(nn.Module):
    """Layers that can be adapted, and others."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 8)
        self.bypassed = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8)
        self.tied_too = nn.Linear(8, 8)
        self.tied_too.weight = self.tied.weight
        self.neck = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.dilated(self.depthwise(self.pointwise(self.stem(x)).relu()))
        x = x.flatten(2).transpose(1, 2)
        x = self.linear(self.attention(x, x, x)[0] + x)
        x = nn.functional.linear(x, self.bypassed.weight, self.bypassed.bias)
        return self.head(self.neck(self.tied_too(self.tied(x))).mean(dim=1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def adapters(net):
    backbone = zoo.Backbone(
        name="net",
        build=lambda num_classes, pretrained: Net(),
        head=zoo.Head(paths=("head",), neck=("neck",)),
        preprocess=zoo.Preprocess(size=16),
    )
    recipe = Recipe(lora_rank=2, lora_alpha=3.0)
    return make_adapters(
        net, backbone, recipe, depths(net, backbone), frozen=0, image_size=(16, 16)
    )


def randomised(adapters):
    """Let the adapters change something, and return the state dict of the adapted network."""
    with attached(adapters), torch.no_grad():
        for layer in adapters.layers.values():
            layer.lora_B["default"].weight.normal_()
        return copied(adapters.model)


def test_layers_whose_weights_can_be_merged_are_adapted(adapters):
    assert set(adapters.layers) == {"stem", "pointwise", "linear"}


def test_the_network_is_as_it_was_where_it_is_not_trained(net, adapters):
    before, images = copied(net), torch.rand(2, 3, 16, 16)
    logits = net(images)
    with attached(adapters):
        assert {n for n, p in net.named_parameters() if p.requires_grad} == {
            "head.weight",
            "head.bias",
            *(f"{path}.lora_{x}.default.weight" for path in adapters.layers for x in "AB"),
        }
        # They start as the identity, except for rounding: a layer's output plus that of its adapter
        # may have another memory layout, and some processors then multiply in another order.
        torch.testing.assert_close(net(images), logits, atol=1e-6, rtol=0)
    randomised(adapters)
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(net(images), logits)
    assert net.state_dict().keys() == before.keys()


def test_the_merged_network_computes_what_the_adapted_one_does(net, adapters):
    images = torch.rand(2, 3, 16, 16)
    own = net(images)
    state = randomised(adapters)
    with attached(adapters):
        expected = net(images)
        assert not torch.allclose(expected, own, atol=1e-3)
        with merged(adapters):
            torch.testing.assert_close(net(images), expected, atol=1e-5, rtol=0)
            inside = copied(net)
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    saved = merged_state(adapters, state)
    assert saved.keys() == inside.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, inside[name]) for name, tensor in saved.items())


def test_a_restart_begins_with_the_initial_adapters(net, adapters):
    with attached(adapters):
        initial = copied(net)
    origin = adapters.origin(copied(net))
    randomised(adapters)
    with attached(adapters):
        load_state(net, origin)
        assert all(torch.equal(tensor, initial[name]) for name, tensor in net.state_dict().items())


@pytest.mark.medium
def test_adapters_that_diverge_are_restarted_and_the_probe_is_kept(photos):
    notes = []

    def listen(event):
        if isinstance(event, Note) and event.warning:
            notes.append(event.text)

    run = zoo.finetune(photos, out="run", listen=listen, **start(lora_rank=1, lr=1e30))
    assert run.info.epoch == 0
    assert len(notes) == 4
    assert run.evaluate().accuracy == run.info.val_accuracy


@pytest.mark.medium
def test_frozen_depths_have_no_adapters(photos):
    plans = []

    def listen(event):
        if isinstance(event, Plan):
            plans.append(event)

    fields = start(train="finetune", lora_rank=1, freeze=4, layer_decay=0.8)
    run = zoo.finetune(photos, out="run", listen=listen, **fields)
    before, after = read_state_dict(Path(fields["weights"])), run.model.state_dict()
    frozen, *trained = [group for group in plans[0].groups if group.part == "backbone"]
    assert frozen.frozen
    assert len({group.lr for group in trained}) == len(trained) > 1
    assert all(torch.equal(after[n], t) for n, t in before.items() if n.startswith("conv_stem"))


#: A network whose only layer with weights is its head.
POOLING = """
import zoo


def build(num_classes, pretrained):
    from torch import nn

    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes or 10))


@zoo.hookimpl
def zoo_backbones():
    yield zoo.Backbone(
        name="pooling", build=build, head="2", preprocess=zoo.Preprocess(size=32)
    )
"""


def refused(photos, **fields):
    """The one line in which a run is refused."""
    result = zoo_("finetune", "--data", str(photos), "--out", "run", *flags(fields), code=2)
    assert not Path("run").exists()
    (line,) = [line for line in result.stderr.splitlines() if "lora" in line]
    return line


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lora_rank": 0}, "greater than or equal to 1"),
        ({"lora_alpha": 16}, "lora_rank"),
        ({"lora_rank": 1, "train": "probe"}, "nothing to adapt"),
        ({"lora_rank": 1, "freeze": "backbone"}, "outside its frozen part"),
    ],
)
def test_adapters_of_nothing_are_refused(photos, fields, said):
    assert said in refused(photos, **start(**fields))


def test_a_network_without_a_layer_to_adapt_is_refused(photos, install):
    install("zoo-pooling", "pooling", "zoo_pooling", POOLING)
    fields = {"backbone": "pooling", "weights": "none", "device": "cpu", "lora_rank": 1}
    assert "no linear layer" in refused(photos, **fields)


def test_without_peft_the_extra_is_named(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "zoo-finetune[lora]" in refused(photos, **start(lora_rank=1))
