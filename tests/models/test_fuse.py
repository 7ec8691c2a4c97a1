import pytest
import timm
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torchvision import models

from zoo.models.fuse import fuse_batch_norms


def with_statistics(model: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that do something, so that a wrong fold shows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return model.eval()


def noise(size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def gap(model: nn.Module, other: nn.Module, size: int = 64) -> float:
    """The largest difference of outputs on new images, in parts of the largest output."""
    images = noise(size, seed=1)
    expected = model(images)
    return float((other(images) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("build", "size", "folded"),
    [
        (lambda: timm.create_model("test_efficientnet"), 64, 13),
        (lambda: timm.create_model("test_resnet"), 64, 15),
        (lambda: timm.create_model("test_byobnet"), 64, 14),
        (lambda: timm.create_model("test_maxvit"), 160, 9),  # Its other 4 precede convolutions.
        (lambda: timm.create_model("tf_efficientnet_lite0"), 64, 49),  # Conv2dSame, too.
        (models.resnet18, 64, 20),
        (models.mobilenet_v3_small, 64, 34),
        (models.shufflenet_v2_x0_5, 64, 56),
        (models.densenet121, 64, 59),  # The other 62 precede convolutions.
    ],
)
def test_the_copy_gives_the_same_outputs(build, size, folded):
    torch.manual_seed(0)
    model = with_statistics(build())
    fused = fuse_batch_norms(model, noise(size))
    assert fused.batch_norms == folded
    assert gap(model, fused.model, size) < 1e-5
    left = sum(isinstance(m, nn.BatchNorm2d) for m in fused.model.modules())
    assert left == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) - folded


def test_the_original_stays_bit_for_bit_and_lends_what_is_not_folded():
    model = with_statistics(timm.create_model("test_efficientnet"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(noise())
    fused = fuse_batch_norms(model, noise()).model
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(model(noise()), expected)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    own = {p.data_ptr() for p in model.parameters()}
    new = [name for name, p in fused.named_parameters() if p.data_ptr() not in own]
    assert len(new) == 2 * 13
    assert fused.get_submodule("classifier").weight is model.get_submodule("classifier").weight


def test_nothing_to_fold_gives_the_model_itself():
    model = timm.create_model("test_vit").eval()
    fused = fuse_batch_norms(model, noise(160))
    assert fused.batch_norms == 0
    assert fused.model is model


class Net(nn.Module):
    """Two convolutions and batch norms, wired by the function that it is given."""

    def __init__(self, wire):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.stem_norm, self.norm = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.wire = wire

    def forward(self, x):
        return self.wire(self, x)


def chain(net, x):
    return net.norm(net.conv(net.stem_norm(net.stem(x)).relu()))


def output_used_twice(net, x):
    y = net.conv(net.stem_norm(net.stem(x)))
    return net.norm(y) + y


def output_changed_in_place(net, x):
    return net.norm(net.conv(net.stem_norm(net.stem(x))).mul_(2))


def output_reshaped(net, x):
    y = net.conv(net.stem_norm(net.stem(x)))
    return net.norm(y) + y.flatten(1).mean()


def convolution_called_twice(net, x):
    y = net.conv(net.stem_norm(net.stem(x)))
    return net.norm(y) + net.conv(x.repeat(1, 2, 1, 1)[:, :4])


def batch_norm_called_twice(net, x):
    y = net.stem_norm(net.stem(x))
    return net.norm(net.conv(y)) + net.norm(y)


def two_batch_norms(net, x):
    y = net.conv(net.stem(x))
    return net.norm(y) + net.stem_norm(y)


@pytest.mark.parametrize(
    ("wire", "folded"),
    [
        (chain, 2),
        (output_used_twice, 1),
        (output_changed_in_place, 1),
        (output_reshaped, 1),
        (convolution_called_twice, 1),
        (batch_norm_called_twice, 1),
        (two_batch_norms, 0),
    ],
)
def test_only_a_batch_norm_that_alone_reads_a_convolution_is_folded(wire, folded):
    torch.manual_seed(0)
    model = with_statistics(Net(wire))
    fused = fuse_batch_norms(model, noise(8))
    assert fused.batch_norms == folded
    assert gap(model, fused.model, 8) < 1e-5


def test_tied_convolutions_are_folded_each_for_itself():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 3, 3, bias=False), nn.Conv2d(3, 3, 3, bias=False)
    second.weight = first.weight
    model = with_statistics(nn.Sequential(first, nn.BatchNorm2d(3), second, nn.BatchNorm2d(3)))
    fused = fuse_batch_norms(model, noise(8))
    assert fused.batch_norms == 2
    assert gap(model, fused.model, 8) < 1e-5
    assert first.weight is second.weight


def hooked(net):
    net.conv.register_forward_hook(lambda *_: None)


def parametrized(net):
    weight_norm(net.conv)


def without_statistics(net):
    net.norm = nn.BatchNorm2d(4, track_running_stats=False).eval()


@pytest.mark.parametrize("change", [hooked, parametrized, without_statistics])
def test_what_is_no_constant_or_is_watched_stays(change):
    torch.manual_seed(0)
    model = with_statistics(Net(chain))
    change(model)
    assert fuse_batch_norms(model, noise(8)).batch_norms == 1


class ReadsWeight(Net):
    def forward(self, x):
        return chain(self, x) * self.conv.weight.sum()


class Standardised(nn.Conv2d):
    def forward(self, x):
        return nn.functional.conv2d(x, self.weight / self.weight.std(), self.bias)


@pytest.mark.parametrize(
    "model", [ReadsWeight(None), nn.Sequential(Standardised(3, 4, 1), nn.BatchNorm2d(4))]
)
def test_a_copy_that_gives_something_else_is_not_used(model):
    model = with_statistics(model)
    fused = fuse_batch_norms(model, noise(8))
    assert fused.batch_norms == 0
    assert fused.model is model


def test_channels_last_weights_stay_so():
    model = with_statistics(models.resnet18()).to(memory_format=torch.channels_last)
    images = noise().to(memory_format=torch.channels_last)
    for module in fuse_batch_norms(model, images).model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_part_of_the_way_folds_what_lies_on_it():
    model = with_statistics(models.resnet18())

    def stem(model, images):
        return model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(images)))))

    def convolution(model, images):
        return model.conv1(images)

    assert fuse_batch_norms(model, noise(), stem).batch_norms == 5
    assert fuse_batch_norms(model, noise(), convolution).batch_norms == 0
