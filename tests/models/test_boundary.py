import copy
import dataclasses
import functools
import itertools
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout

import zoo
from tests.backbones.meta import no_values
from tests.conftest import TINY
from zoo import plugins
from zoo.errors import BoundaryError
from zoo.models.boundary import find_boundary
from zoo.models.depth import depths
from zoo.models.freeze import freeze_parameters, train_mode
from zoo.models.replay import activations, replay

LABELS = torch.tensor([0, 1, 2, 0])


def images(size, seed=1, count=4):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def training(backbone, frozen, batch_norm="train"):
    """A model as it is trained with that many depths frozen, or that share of them."""
    torch.manual_seed(0)
    model = zoo.build(backbone, 3, weights="none")
    layers = depths(model, backbone)
    frozen = round(frozen * len(layers)) if isinstance(frozen, float) else frozen
    freeze_parameters(model.named_parameters(), layers, frozen)
    train_mode(model, backbone, layers, frozen=frozen, batch_norm=batch_norm)
    return model


def dropping(name):
    """The backbone with dropout and, if it knows it, stochastic depth."""
    backbone = plugins.get(name)
    library, _, architecture = backbone.name.partition("/")
    if library == "timm":
        rates = {"drop_rate": 0.2, "drop_path_rate": 0.0 if "test_resnet" in name else 0.2}
        create = functools.partial(timm.create_model, architecture, **rates)
        return dataclasses.replace(backbone, build=lambda n, _: create(num_classes=n))
    return backbone


def steps(model, forward, count=3):
    """SGD steps on one batch; gives the gradients of the first."""
    trainable = {k: p for k, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trainable.values(), lr=0.01, momentum=0.9)
    first = {}
    for step in range(count):
        torch.manual_seed(step)
        optimizer.zero_grad()
        output = forward()
        logits, *_ = output if isinstance(output, tuple) else (output,)
        cross_entropy(logits, LABELS).backward()
        first = first or {k: p.grad.clone() for k, p in trainable.items() if p.grad is not None}
        optimizer.step()
    return first


def distance(some, others):
    """The largest relative difference of two dictionaries of tensors."""
    assert some.keys() == others.keys()
    pairs = [(one.detach().double(), others[k].detach().double()) for k, one in some.items()]
    return max(
        ((one - other).abs().max() / one.abs().max().clamp(min=1e-3)).item() for one, other in pairs
    )


@pytest.mark.parametrize(
    ("name", "size", "frozen"),
    [
        *itertools.product(["timm/test_vit"], [160], [1, 0.5, 1.0]),
        *itertools.product(["timm/test_convnext", "timm/test_resnet", TINY], [64], [1, 0.5, 1.0]),
        *itertools.product(["torchvision/mobilenet_v3_small"], [64], [1, 0.5, 1.0]),
        *(
            pytest.param("torchvision/resnet18", 64, frozen, marks=pytest.mark.slow)
            for frozen in (1, 0.5)
        ),
        ("torchvision/squeezenet1_1", 64, 0.5),
        pytest.param("torchvision/densenet121", 64, 0.5, marks=pytest.mark.slow),
        # Auxiliary heads in train mode.
        pytest.param("torchvision/googlenet", 64, 0.5, marks=pytest.mark.slow),
        pytest.param("torchvision/swin_t", 64, 0.5, marks=pytest.mark.slow),
    ],
)
def test_training_from_activations_is_training_from_images(name, size, frozen):
    """With dropout, stochastic depth and moving batch-norm statistics."""
    backbone = dropping(name)
    model = training(backbone, frozen)
    boundary = find_boundary(model, backbone, image_size=(size, size))
    batch = images(size)
    cached = activations(model, boundary, batch)
    assert cached.shape == (len(batch), *boundary.shape)
    assert not cached.requires_grad
    other = copy.deepcopy(model)
    gradients = steps(model, lambda: model(batch))
    others = steps(other, lambda: replay(other, boundary, cached))
    assert distance(gradients, others) <= 1e-6
    assert distance(model.state_dict(), other.state_dict()) <= 1e-5
    logits = model.eval()(batch)
    assert distance({"": logits}, {"": replay(other.eval(), boundary, cached)}) <= 1e-5


@pytest.mark.parametrize(
    ("name", "frozen", "size", "where", "shape"),
    [
        ("torchvision/resnet18", 1, 64, "maxpool", (64, 16, 16)),
        ("torchvision/resnet18", 1.0, 64, "the input of fc", (512,)),
        ("torchvision/squeezenet1_1", 1.0, 64, "the input of classifier.1", (512, 3, 3)),
        ("torchvision/densenet121", 1.0, 64, "the input of classifier", (1024,)),
        ("timm/test_vit", 3, 160, "blocks.1", (101, 64)),
        ("timm/test_vit", 1.0, 160, "the input of head", (64,)),
        # Two heads read two rows of it.
        ("timm/deit_tiny_distilled_patch16_224", 1.0, 224, "norm", (198, 192)),
        # Within a dense block later layers read all earlier ones, here from inside denseblock3.
        ("torchvision/densenet121", 0.5, 64, "features.transition2", (256, 4, 4)),
        # What its first auxiliary head reads, in train mode alone.
        ("torchvision/googlenet", 0.5, 64, "inception4a", (512, 4, 4)),
    ],
)
def test_the_boundary_is_the_last_place_that_holds_all_that_the_rest_needs(
    name, frozen, size, where, shape
):
    backbone = plugins.get(name)
    boundary = find_boundary(training(backbone, frozen), backbone, image_size=(size, size))
    assert (boundary.name, boundary.shape) == (where, shape)


class Layers(nn.Module):
    """Convolutions a, b, c and a head; `flow` is the forward pass up to the head."""

    def __init__(self, flow, num_classes):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, num_classes)
        self.flow = flow

    def forward(self, x):
        return self.head(self.flow(self, x).mean((2, 3)))


def layered(flow, stages=("a", "b", "c")):
    return zoo.Backbone(
        name="acme/layers",
        build=lambda num_classes, _: Layers(flow, num_classes or 10),
        head="head",
        preprocess=zoo.Preprocess(size=8),
        stages=stages,
    )


def a_skip_that_hardly_counts(model, x):
    x = model.a(x)
    return model.c(model.b(x)) + 1e-12 * x


def two_branches(model, x):
    return (
        model.c(model.a(x))
        + model.b(x.mean(1, keepdim=True).expand(-1, 4, -1, -1))[..., 1:-1, 1:-1]
    )


def a_function_that_drops(model, x):
    return model.c(model.b(dropout(model.a(x), 0.5, model.training)))


def asserts_that_a_is_a_number(model, x):
    x = model.a(x)
    assert not x.isnan().any()
    return model.c(model.b(x))


def one_layer_twice(model, x):
    return model.c(model.b(model.b(model.a(x)).relu()))


@pytest.mark.parametrize(
    ("flow", "where"),
    [
        (a_skip_that_hardly_counts, "a"),
        (a_function_that_drops, "a"),
        (asserts_that_a_is_a_number, "a"),
        (one_layer_twice, "b"),
    ],
)
def test_what_is_read_across_the_boundary_or_is_random_is_computed(flow, where):
    backbone = layered(flow)
    model = training(backbone, 2)
    boundary = find_boundary(model, backbone, image_size=(8, 8))
    assert boundary.name == where
    cached = activations(model, boundary, images(8))
    other = copy.deepcopy(model)
    steps(model, lambda: model(images(8)))
    steps(other, lambda: replay(other, boundary, cached))
    assert distance(model.state_dict(), other.state_dict()) == 0


@pytest.mark.parametrize(
    ("backbone", "frozen", "reason"),
    [
        (layered(two_branches), 2, " b "),
        (layered(a_function_that_drops), 0, ""),
        # Depth is not the order of computing: `a` trains, and so what `b` gives changes.
        (layered(one_layer_twice, ("b", "a", "c")), 1, ""),
    ],
)
def test_a_network_that_cannot_be_cut_is_refused_with_the_reason(backbone, frozen, reason):
    with pytest.raises(BoundaryError, match=f"acme/layers .*: .*{reason}"):
        find_boundary(training(backbone, frozen), backbone, image_size=(8, 8))


def state(model):
    return {
        "modes": {k: m.training for k, m in model.named_modules()},
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "own": {k: sorted(vars(m)) for k, m in model.named_modules()},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "random": torch.get_rng_state(),
    }


def same(some, others):
    tensors, other_tensors = some.pop("tensors"), others.pop("tensors")
    random, other_random = some.pop("random"), others.pop("random")
    return (
        some == others
        and torch.equal(random, other_random)
        and all(torch.equal(v, other_tensors[k]) for k, v in tensors.items())
    )


def test_the_model_is_left_as_it_was_also_by_errors():
    backbone = plugins.get("torchvision/resnet18")
    model = training(backbone, 0.5)
    before = state(model)
    boundary = find_boundary(model, backbone, image_size=(64, 64))
    assert same(state(model), copy.deepcopy(before))
    cached = activations(model, boundary, images(64))
    assert same(state(model), copy.deepcopy(before))
    model.eval()
    before = state(model)
    replay(model, boundary, cached)
    assert same(state(model), copy.deepcopy(before))
    with pytest.raises(RuntimeError):
        activations(model, boundary, torch.zeros(1, 4, 64, 64))
    with pytest.raises(RuntimeError):
        replay(model, boundary, cached[:, :, :1, :-1])
    with pytest.raises(RuntimeError):
        find_boundary(model, backbone, image_size=(0, 0))
    assert same(state(model), before)


def test_nothing_after_the_boundary_is_computed_for_activations():
    backbone = plugins.get("torchvision/resnet18")
    model = training(backbone, 0.5)
    boundary = find_boundary(model, backbone, image_size=(64, 64))
    model.layer3 = None
    assert activations(model, boundary, images(64)).shape == (4, *boundary.shape)


@pytest.mark.parametrize("frozen", [0.5, 1.0])
def test_nothing_before_the_boundary_is_computed_in_replaying(frozen):
    backbone = plugins.get("torchvision/resnet18")
    model = training(backbone, frozen, "frozen")
    boundary = find_boundary(model, backbone, image_size=(64, 64))
    cached, expected = activations(model, boundary, images(64)), model(images(64))
    for parameter in model.parameters():
        if not parameter.requires_grad:
            nn.init.constant_(parameter, torch.nan)
    assert distance({"": replay(model, boundary, cached)}, {"": expected}) <= 1e-6


def test_activations_may_be_of_another_dtype_and_are_not_changed():
    backbone = plugins.get("torchvision/resnet18")
    model = training(backbone, 0.5, "frozen")
    boundary = find_boundary(model, backbone, image_size=(64, 64))
    cached = activations(model, boundary, images(64)).half()
    before = cached.clone()
    found = replay(model, boundary, cached)
    assert found.dtype == torch.float32
    assert distance({"": model(images(64))}, {"": found}) <= 1e-2
    assert torch.equal(cached, before)


@pytest.mark.slow
def test_mixed_precision_goes_on_from_full_precision_too():
    backbone = plugins.get("torchvision/resnet18")
    model = training(backbone, 0.5, "frozen")

    def mixed(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    with torch.autocast("cpu", torch.bfloat16):
        boundary = find_boundary(model, backbone, image_size=(64, 64))
        cached = activations(model, boundary, images(64))
    assert boundary.dtype == cached.dtype == torch.bfloat16
    expected = mixed(images(64))
    assert torch.equal(replay(model, boundary, cached, mixed), expected)
    full = activations(model, boundary, images(64))
    assert full.dtype == torch.float32
    assert distance({"": expected}, {"": replay(model, boundary, full, mixed)}) <= 2e-2


#: (backbone, share that is frozen): no single tensor holds what the rest needs.
NOWHERE = {
    ("timm/tnt_s_legacy_patch16_224", 0.5),  # pixels and patches, side by side to the last block
    ("timm/crossvit_tiny_240", 0.5),  # two branches from the first layer to the last
    ("timm/crossvit_tiny_240", 1.0),
}

#: Where it is cut so early that little of the frozen part is saved.
EARLY = {
    ("timm/coat_tiny", 0.5): "serial_blocks2.1",  # norms that stand still, in parallel blocks
    ("timm/densenet121", 0.5): "features.transition2",
    ("timm/efficientvim_m1", 0.5): "patch_embed",  # hands on a state beside the features
    ("timm/efficientvim_m1", 1.0): "patch_embed",
    ("timm/hrnet_w18_small", 0.5): "layer1",  # parallel branches
    ("timm/efficientvim_m1_dist", 0.5): "patch_embed",
    ("timm/efficientvim_m1_dist", 1.0): "patch_embed",
}

ONE_PER_CLASS = [
    f"timm/{line.split()[0]}"
    for line in (Path(__file__).parents[1] / "backbones/one_per_class.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_PER_CLASS)
def test_of_each_class_of_timm_all_but_a_known_few_can_be_cut(name):
    backbone = plugins.get(name)
    own = backbone.preprocess
    size = own.height_width if own.fixed_size else (96, 96)
    with no_values():
        parameters = sum(p.numel() for p in plugins.build(backbone, 7, False).parameters())
    if parameters > 24e6 or max(size) > 256:
        pytest.skip("too large to compute with here")
    for frozen in (0.5, 1.0):
        try:
            found = find_boundary(training(backbone, frozen, "frozen"), backbone, image_size=size)
        except BoundaryError:
            found = None
        assert (found is None) == ((name, frozen) in NOWHERE)
        if (name, frozen) in EARLY:
            assert found.name == EARLY[name, frozen]
