"""The model card: metadata that the Hub accepts, figures by class, and code that runs."""

import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image

import zoo
from tests.conftest import QUICK
from zoo import plugins
from zoo.export import _free_place
from zoo.export.script import script_file
from zoo.runs.card import MOST_CLASSES, Published, card_text
from zoo.runs.figures import ClassFigures, Figure
from zoo.weights import describe


def card_of(text: str) -> ModelCard:
    """The card, as the Hub's client parses it: invalid metadata are errors."""
    card = ModelCard(text)
    assert isinstance(card.data, ModelCardData)
    return card


def text_of(run: zoo.Run, place: object = None, **changes: object) -> str:
    info = replace(run.info, **changes)
    return card_text(info, run.backbone, place or run.path, val_images=12)


def test_the_metadata_of_a_run_are_those_of_a_model_card(run):
    data = card_of((run.path / "README.md").read_text()).data
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-classification")
    assert {"image-classification", "timm", "single-label"} <= set(data.tags)
    assert (data.base_model, data.license, data.datasets) == (None, None, None)
    assert set(data.metrics) == set(run.info.figures["val"].metrics)
    results = {(each.dataset_split, each.metric_type): each for each in data.eval_results}
    for name, figure in run.info.figures["val"].metrics.items():
        found = results["val", name]
        assert found.metric_value == pytest.approx(figure.value, abs=1e-6)
        args = found.metric_args
        assert args["confidence_level"] == 0.95
        assert (args["low"], args["high"]) == pytest.approx((figure.low, figure.high), abs=1e-6)


def test_the_hub_validates_the_card(run, hub):
    card_of((run.path / "README.md").read_text()).validate()
    assert hub.asked == ["POST /api/validate-yaml"]


def test_licence_and_base_model_are_those_of_the_pretrained_weights(run):
    weights = run.backbone.weights
    data = card_of(text_of(run, weights_source=describe(weights))).data
    assert data.base_model == weights.hub.partition("@")[0]
    assert data["base_model_relation"] == "finetune"
    assert data.license == weights.license.lower()


def test_what_the_owner_states_is_in_the_published_card(run):
    published = Published(repository="acme/colours", license="My Licence 2", datasets=("a/b",))
    text = text_of(run, published, weights_source=describe(run.backbone.weights))
    data = card_of(text).data
    assert (data.license, data.license_name) == ("other", "my-licence-2")
    assert data.datasets == ["a/b"]
    assert "zoo pull acme/colours" in text
    assert "hf-hub:acme/colours" in text
    assert str(run.path) not in text


def test_a_card_of_hostile_names_keeps_its_metadata(run):
    name = 'x"\n---\nlicense: evil\n\u2028\x85\U0001f600'
    info = replace(run.info, backbone=name, class_names=(name, "b", "c"))
    text = card_text(info, run.backbone, run.path, val_images=12)
    data = card_of(text).data
    assert data.license is None
    assert "\nlicense: evil" not in text
    assert data.model_name


def test_figures_by_class_have_intervals(run):
    card = (run.path / "README.md").read_text()
    section = card.partition("## Figures by class")[2].partition("\n## ")[0]
    for name in run.class_names:
        assert re.search(rf"\| {name} \| 4 \| [\d.]+% \(", section)
    assert "## Limits" in card
    assert "## Intended use" in card


def test_of_many_classes_those_with_the_lowest_figures_are_shown(run):
    number = MOST_CLASSES + 20
    figures = [Figure(n / number, 0, 1) for n in range(number)]
    classes = [
        ClassFigures(name=f"c{n}", images=9, precision=f, recall=f, f1=f, auroc=None)
        for n, f in enumerate(reversed(figures))
    ]
    text = card_text(run.info, run.backbone, run.path, val_images=12, classes={"val": classes})
    section = text.partition("## Figures by class")[2].partition("\n## ")[0]
    shown = re.findall(r"^\| c(\d+) ", section, re.MULTILINE)
    assert sorted(map(int, shown)) == list(range(20, number))


def test_a_run_without_counts_has_a_card(run):
    assert "## Images" not in text_of(run, counts={})


def test_the_card_names_the_script_that_an_export_writes(run):
    exporter = plugins.declared_as("zoo_exporters", "onnx")
    script = script_file(_free_place(run, exporter, None))
    assert f"    python {script} IMAGE..." in text_of(run)


def code_of(card: str) -> list[str]:
    """The indented blocks of Python of the section on use without zoo."""
    section = card.partition("Without zoo")[2].partition("With ONNX Runtime")[0]
    blocks = re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


@pytest.mark.parametrize(
    "name",
    [
        "timm/test_efficientnet",
        pytest.param("torchvision/shufflenet_v2_x0_5", marks=pytest.mark.medium),
        pytest.param("transformers/resnet", marks=pytest.mark.slow),
    ],
)
def test_the_code_of_the_card_loads_the_run(name, run, photos, tmp_path):
    if name != run.info.backbone:
        fields = {**QUICK, "backbone": name, "train": "probe"}
        run = zoo.finetune(photos, out=tmp_path / "run", **fields)
    expected = run.model.state_dict()
    blocks = code_of((Path(run.path) / "README.md").read_text())
    assert len(blocks) == (2 if plugins.get(name).name.startswith("timm/") else 1)
    for block in blocks:
        known: dict[str, object] = {}
        exec(block, known)
        if "model" in known:
            state = known["model"].state_dict()
            assert all(torch.equal(state[key], expected[key]) for key in expected)
        else:
            answers = known["classify"](Image.open(photos / "red" / "0.png"))
            assert {answer["label"] for answer in answers} <= set(run.class_names)


def test_the_model_index_is_one_line_of_json(run):
    card = (run.path / "README.md").read_text()
    (index,) = json.loads(card.split("model-index: ")[1].splitlines()[0])
    assert index["name"] == run.info.backbone
