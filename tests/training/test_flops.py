import pytest
import timm
import torch
from torch import nn

from zoo.training.flops import flops_per_image


def layers() -> nn.Sequential:
    """A convolution, a depthwise one and a linear layer for 8 x 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


STEM, DEPTHWISE, HEAD = (2 * n for n in (64 * 3 * 9 * 6, 64 * 9 * 6, 6 * 5))


@pytest.mark.parametrize("count", [2, 5])
def test_forward_counts_a_multiply_add_as_two(count):
    assert flops_per_image(layers(), torch.zeros(count, 3, 8, 8)) == STEM + DEPTHWISE + HEAD


def test_backward_counts_gradients_of_weights_and_of_what_lies_below():
    # Nothing asks for the gradient of the image.
    expected = 2 * STEM + 3 * DEPTHWISE + 3 * HEAD
    assert flops_per_image(layers(), torch.zeros(2, 3, 8, 8), backward=True) == expected


def test_what_is_frozen_has_no_backward():
    model = layers()
    model.requires_grad_(False)
    model[-1].requires_grad_(True)
    expected = STEM + DEPTHWISE + 2 * HEAD
    assert flops_per_image(model, torch.zeros(2, 3, 8, 8), backward=True) == expected


def test_attention_counts_on_every_device():
    model = timm.create_model("test_vit", num_classes=0, global_pool="")
    blocks = model.blocks
    tokens, width = 101, 64
    attention = 2 * 2 * tokens**2 * width
    linear = 2 * sum(m.weight.numel() for m in blocks.modules() if isinstance(m, nn.Linear))
    expected = len(blocks) * attention + tokens * linear
    stem = 2 * 100 * model.patch_embed.proj.weight.numel()
    assert flops_per_image(model, torch.zeros(1, 3, 160, 160)) == expected + stem


def test_counting_changes_nothing():
    torch.manual_seed(0)
    model = layers().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    flops_per_image(model, torch.zeros(2, 3, 8, 8), backward=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_views_of_parameters_and_auxiliary_outputs_are_no_obstacle():
    assert flops_per_image(timm.create_model("cait_xxs24_224"), torch.zeros(1, 3, 224, 224)) > 1e9

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.one(x.mean((2, 3))), self.two(x.mean((2, 3)))

    assert flops_per_image(TwoHeads(), torch.zeros(2, 3, 4, 4), backward=True) == 2 * 2 * 2 * 6
