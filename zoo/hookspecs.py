"""The hooks that a plugin may implement: the complete contract between zoo and its plugins."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pluggy

from zoo.backbone import Backbone, LeftOut, Weights
from zoo.errors import PluginError
from zoo.exporter import Exporter

#: Entry-point group in which plugins register, and pluggy's project name.
PROJECT = "zoo"

#: The distribution that zoo is installed from; PyPI's `zoo` is another project.
DISTRIBUTION = "zoo-finetune"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

#: What a name of a `Factory` looks like.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Factory:
    """Declaration of a loss or a transform by a plugin.

    Attributes:
        name: Name by which recipes choose it: letters, digits, ".", "_" and "-".
        make: Function without arguments that creates it, called once per run and process. A
            ModuleNotFoundError is reported as the package to install, so import libraries inside.
        summary: What it is, in one line, for `zoo plugins`.
    """

    name: str
    make: Callable[[], Callable[..., Any]]
    summary: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise PluginError(
                f"Factory: name {self.name!r}: use letters, digits, '.', '_' and '-' only"
            )
        if not self.summary.strip() or len(self.summary.splitlines()) > 1:
            raise PluginError(f"Factory {self.name}: summary is one line, got {self.summary!r}")


@hookspec
def zoo_backbones() -> Iterable[Backbone | LeftOut]:  # type: ignore[empty-body]
    """Declare backbones.

    Called once per process, when backbones are listed or one of this plugin's is requested.
    Import your library inside the hook, not at module level. Do not load weights or access the
    network.

        @zoo.hookimpl
        def zoo_backbones():
            from acme.nets import mynet
            yield zoo.Backbone(
                name="mynet",
                build=mynet,
                head="fc",
                preprocess=zoo.Preprocess(size=224),
            )

    Returns:
        The declarations, in any order, with unique names. A `LeftOut` tells users who request a
        network of your library why it is not available as a backbone.
    """


@hookspec
def zoo_resolve(name: str, definition: Mapping[str, Any] | None) -> Backbone | LeftOut | None:
    """Resolve a name that no plugin declares, such as a hub id or a folder with a configuration.

    Called with the value of `--backbone`, without the plugin's own prefix, if no declared backbone
    has that name. Runs store the full name, PLUGIN/NAME, and are loaded by it, so the same name
    must always give the same network: return a backbone whose `name` says which version it is.

        @zoo.hookimpl
        def zoo_resolve(name, definition):
            if not name.startswith("hub:"):
                return None
            if definition is None:
                definition = acme.hub.config(name.removeprefix("hub:"))
            return zoo.Backbone(
                name=f"hub:{definition['id']}@{definition['version']}",
                build=functools.partial(acme.build, definition),
                head="fc",
                preprocess=zoo.Preprocess(size=definition["size"]),
                definition=definition,
            )

    `zoo.weights.open_checkpoint` opens the names `hf-hub:OWNER/NAME` and `local-dir:PATH`.

    Args:
        name: The name as given, or the part after the plugin's prefix.
        definition: None for a name that a user gives; for the backbone of a run, `definition` of
            the backbone that was returned when it was trained. It comes from the run's file, which
            may be untrusted.

    Returns:
        The backbone's declaration; a `LeftOut` if the name is for this plugin but can't be a
        backbone; None if it is not for this plugin.
    """


@hookspec
def zoo_weights(backbone: Backbone) -> Iterable[Weights]:  # type: ignore[empty-body]
    """Declare additional sources of the pretrained weights of a backbone of any plugin.

    Called when pretrained weights are located. A source may be a mirror, a shared folder or a
    package. Its file is loaded as one given by a user: with the backbone's `convert`, strictly,
    and checked against `sha256` if that is declared.

        @zoo.hookimpl
        def zoo_weights(backbone):
            if backbone.name == "torchvision/resnet18":
                yield zoo.Weights(path="/mnt/weights/resnet18-f37072fd.pth", sha256="f37072fd")

    Args:
        backbone: The backbone's declaration, with its full name.

    Returns:
        Sources, tried in this order, before the backbone's own.
    """


@hookspec
def zoo_sources() -> Mapping[str, Callable[[str], object]]:  # type: ignore[empty-body]
    """Declare data sources: what `--data` accepts besides folders and tables.

    Called if `--data` is neither an existing folder nor a table: also for other files, such as an
    archive. zoo splits, checks and caches the samples of a source in the same way as images in a
    folder.

        @zoo.hookimpl
        def zoo_sources():
            return {"acme": open_acme}

        def open_acme(data):
            if data.startswith("acme:"):
                return AcmeSource(data)

        class AcmeSource:
            splits = ("train",)

            def __init__(self, data):
                self.name, self._folder = data, acme.folder(data.removeprefix("acme:"))

            def read(self, split):
                samples = [
                    zoo.Sample(name=key, labels=(label,), load=functools.partial(acme.get, key))
                    for key, label in acme.rows(self._folder)
                ]
                return zoo.Part(name=self.name, samples=samples)

    Returns:
        Functions by the name of the source. Each is called with the value of `--data` and returns
        a `zoo.data.sources.Source`, or None if the value is not for it. A sample's `load` returns
        the encoded image as bytes. Its name must not change: splits and caches depend on it.
    """


@hookspec
def zoo_loggers() -> Mapping[str, Callable[[], Callable[[object], None]]]:  # type: ignore[empty-body]
    """Declare loggers, which receive the events of a run.

    Called when a run is started with `--logger NAME`. Import your library inside the function that
    creates the logger; a ModuleNotFoundError there is reported as the package to install.

        @zoo.hookimpl
        def zoo_loggers():
            return {"acme": AcmeLogger}

        class AcmeLogger:
            def __call__(self, event):
                if isinstance(event, zoo.events.EpochEnd):
                    print(event.epoch, event.metrics["val_loss"])

    Returns:
        Functions without arguments, by the name of the logger. Each returns a function that takes
        an event of `zoo.events` and is called in the main process only; the first event after the
        plan is `RunStart`, the last `RunEnd`. A logger that raises is disabled with a warning.
    """


@hookspec
def zoo_exporters() -> Mapping[str, Exporter]:  # type: ignore[empty-body]
    """Declare formats that `zoo export --to NAME` can write.

    Called when a run is exported. Import the format's libraries in the functions; a
    ModuleNotFoundError there is reported as the package to install.

        @zoo.hookimpl
        def zoo_exporters():
            return {"acme": zoo.Exporter(suffix=".pt2", write=write, open=load)}

        def write(model, example, path, metadata):
            import torch
            batch = torch.export.Dim("batch")
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
            torch.export.save(program, path, extra_files=dict(metadata))

        def load(path):
            import torch
            model = torch.export.load(path).module()
            return lambda images: model(torch.from_numpy(images)).detach().numpy()

    Returns:
        A `zoo.Exporter` by the format's name. zoo gives `write` a model that includes the
        normalisation of its input, and compares what `open` makes of the file with the run.
    """


@hookspec
def zoo_losses() -> Iterable[Factory]:  # type: ignore[empty-body]
    """Declare losses for fine-tuning, in place of the task's.

    Called when a run is planned whose recipe has `loss = NAME`.

        @zoo.hookimpl
        def zoo_losses():
            yield zoo.Factory(name="focal", make=make, summary="Focal loss with gamma = 2")

        def make():
            from torch.nn.functional import cross_entropy

            def focal(logits, targets):
                losses = cross_entropy(logits, targets, reduction="none")
                return ((1 - (-losses).exp()) ** 2 * losses).mean()

            return focal

    Returns:
        The declarations, with unique names. What `make` returns is as the argument `loss` of
        `zoo.finetune`: it maps (logits (N, classes) float32, targets (N, ...) of the task) to their
        mean loss (), and has no parameters to train.
    """


@hookspec
def zoo_transforms() -> Iterable[Factory]:  # type: ignore[empty-body]
    """Declare transforms of augmented train images.

    Called when a run is planned whose recipe has `transform = NAME`.

        @zoo.hookimpl
        def zoo_transforms():
            yield zoo.Factory(name="grey", make=make, summary="Every tenth view in grey")

        def make():
            from torchvision.transforms import v2

            return v2.RandomGrayscale(p=0.1)

    Returns:
        The declarations, with unique names. What `make` returns is as the argument `transform` of
        `zoo.finetune`: it maps pixels (C, H, W) uint8 to pixels of the same shape and type, draws
        from torch's global generator, and can be pickled. `zoo.albumentations` adapts transforms of
        albumentations.
    """
