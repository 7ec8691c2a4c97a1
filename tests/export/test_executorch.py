"""Files for ExecuTorch, whose operators support fewer memory formats than torch's."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from zoo import Preprocess, plugins
from zoo.engines.model import ExportableModel
from zoo.engines.runtime import load_exported

SIZE, CLASSES = 32, 5


class ChannelsLastNorm(nn.Module):
    """Normalises channels of permuted images, as ConvNeXt does."""

    def forward(self, images):
        rows = images.permute(0, 2, 3, 1)
        return nn.functional.layer_norm(rows, rows.shape[-1:]).permute(0, 3, 1, 2)


class Shift(nn.Module):
    """Crops at one side and pads at the other, as NASNet does."""

    def forward(self, images):
        return nn.functional.pad(images, (-1, 1, 2, -3), value=0.5)


class Folded(nn.Module):
    """Sums overlapping patches, as VOLO does."""

    def forward(self, images):
        patches = nn.functional.unfold(images, 3, padding=1)
        return nn.functional.fold(patches, images.shape[-2:], 3, padding=1)


@pytest.mark.medium
@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(nn.BatchNorm2d(8), id="bn", marks=pytest.mark.slow),
        pytest.param(ChannelsLastNorm(), id="permuted"),
        pytest.param(Shift(), id="shift"),
        pytest.param(Folded(), id="folded"),
    ],
)
def test_a_file_computes_any_number_of_images(tmp_path, layer):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    network = nn.Sequential(
        convolution, layer, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES)
    )
    model = ExportableModel(network, Preprocess(size=SIZE))
    exporter = plugins.declared_as("zoo_exporters", "executorch")
    file = tmp_path / "a.pte"
    exporter.write(model, model.example(), file, {})
    compute = load_exported("executorch", exporter, file, CLASSES)
    for count in (1, 3, 17):
        images = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8)
        with torch.inference_mode():
            expected = model(images).numpy()
        assert np.abs(compute(images.numpy()) - expected).max() < 1e-5


@pytest.mark.medium
def test_a_network_of_too_many_operations_is_refused(tmp_path, monkeypatch):
    """The converter would take all memory; an LSTM has some operations for each step."""
    monkeypatch.setattr("zoo_exporters.executorch_file._MOST_OPERATIONS", 50)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3 * SIZE, CLASSES, batch_first=True)

        def forward(self, images):
            return self.lstm(images.permute(0, 2, 1, 3).flatten(2))[0][:, -1]

    model = ExportableModel(Recurrent(), Preprocess(size=SIZE))
    exporter = plugins.declared_as("zoo_exporters", "executorch")
    file = tmp_path / "a.pte"
    with pytest.raises(RuntimeError, match="operations"):
        exporter.write(model, model.example(), file, {})
    assert not file.exists()


@pytest.mark.slow
def test_a_network_of_one_batch_size_takes_one_image_at_a_time(tmp_path):
    """CPUBone has views that ExecuTorch can't trace for a varying batch size."""
    torch.manual_seed(0)
    network = timm.create_model("cpubone_nano", num_classes=CLASSES).eval()
    model = ExportableModel(network, Preprocess(size=224))
    exporter = plugins.declared_as("zoo_exporters", "executorch")
    file = tmp_path / "a.pte"
    assert "one image at a time" in exporter.write(model, model.example(), file, {})
    compute = load_exported("executorch", exporter, file, CLASSES)
    images = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model(images).numpy()
    assert np.abs(compute(images.numpy()) - expected).max() < 1e-5
