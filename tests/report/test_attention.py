"""Maps of evidence are where the evidence is, in convolutional networks and transformers."""

import pytest
import torch

from zoo import plugins
from zoo.backbone import Backbone, Preprocess
from zoo.models.build import build_empty
from zoo.report.attention import attention_maps


class Bright(torch.nn.Module):
    """A network whose second logit is the mean brightness, by one convolution."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 4, stride=4), torch.nn.ReLU(True))
        self.head = torch.nn.Linear(3, 2)
        with torch.no_grad():
            self.features[0].weight.fill_(1 / 48)
            self.features[0].bias.fill_(0)
            self.head.weight.copy_(torch.tensor([[0.0] * 3, [1.0] * 3]))

    def forward(self, images):
        return self.head(self.features(images).mean(dim=(2, 3)))


def test_evidence_is_where_the_image_is_bright():
    preprocess = Preprocess(size=16, mean=(0.0,) * 3, std=(1.0,) * 3)
    backbone = Backbone(
        name="bright",
        build=lambda *_: Bright(),
        head="head",
        preprocess=preprocess,
        stages=("features.0",),
    )
    images = torch.zeros(2, 3, 16, 16)
    images[0, :, 4:8, 8:12] = 1
    logits, maps = attention_maps(Bright().eval(), backbone, images, [1, 1])
    assert logits.shape == (2, 2)
    assert maps[0].argmax() == 1 * 4 + 2
    assert maps[0].sum() == pytest.approx(1, abs=1e-3)
    assert not maps[1].any()


@pytest.mark.parametrize(
    ("name", "grid"),
    [
        ("timm/test_resnet", 5),
        ("timm/test_efficientnet", 5),
        ("timm/test_vit", 10),
        ("timm/test_convnext", 5),
    ],
)
def test_networks_have_maps_at_the_positions_of_their_last_stage(name, grid):
    backbone = plugins.get(name)
    torch.manual_seed(0)
    model = build_empty(backbone, 3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    size = backbone.preprocess.height_width
    logits, maps = attention_maps(model, backbone, torch.randn(2, 3, *size), [0, 2])
    assert logits.shape == (2, 3)
    assert maps.shape == (2, grid, grid)
    # Nothing may speak for a class in an image, but not in every one.
    assert float(maps.amax()) == pytest.approx(1)
    assert float(maps.amin()) >= 0


def test_without_stages_there_is_no_map():
    preprocess = Preprocess(size=16, mean=(0.0,) * 3, std=(1.0,) * 3)
    backbone = Backbone(
        name="bright", build=lambda *_: Bright(), head="head", preprocess=preprocess
    )
    logits, maps = attention_maps(Bright().eval(), backbone, torch.zeros(1, 3, 16, 16), [1])
    assert logits.shape == (1, 2)
    assert maps is None
