"""The hooks that a plugin may implement: the whole contract between zoo and its plugins."""

from collections.abc import Callable, Iterable, Mapping

import pluggy

from zoo.backbone import Backbone, LeftOut, Weights

#: Entry-point group that plugins register in, and pluggy's project name.
PROJECT = "zoo"

#: The distribution that zoo is installed from; PyPI's `zoo` is another project.
DISTRIBUTION = "zoo-finetune"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def zoo_backbones() -> Iterable[Backbone | LeftOut]:  # type: ignore[empty-body]
    """Declare backbones.

    Called once per process, when someone lists backbones or asks for one of this plugin's.
    Import your own library in here, not at module level. Load no weights, use no network.

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
        The declarations, in any order. Two with one name are an error of the plugin. A `LeftOut`
        says why a network of your library is no backbone, to whoever asks for it.
    """


@hookspec
def zoo_resolve(name: str) -> Backbone | None:
    """Give the backbone of a name that nobody declares: a hub id, a folder with a configuration.

    Called with what `--backbone` says, without the plugin's own prefix, if no declared backbone has
    that name. Runs keep the full name, PLUGIN/NAME, and are loaded by it: the same name must give
    the same network again.

        @zoo.hookimpl
        def zoo_resolve(name):
            if not name.startswith("hub:"):
                return None
            config = acme.hub.config(name.removeprefix("hub:"))
            return zoo.Backbone(
                name=name,
                build=functools.partial(acme.build, config),
                head="fc",
                preprocess=zoo.Preprocess(size=config.size),
            )

    Args:
        name: As given, or what follows the plugin's prefix.

    Returns:
        Its declaration, or None if the name is not meant for the plugin.
    """


@hookspec
def zoo_weights(backbone: Backbone) -> Iterable[Weights]:  # type: ignore[empty-body]
    """Say where else the pretrained weights of a backbone, of whatever plugin, may come from.

    Called when pretrained weights are looked for: for a mirror, a shared folder, a package of your
    company. What is there is loaded as a file that a user gives would be: through the backbone's
    `convert`, strictly, checked against `sha256` where one is declared.

        @zoo.hookimpl
        def zoo_weights(backbone):
            if backbone.name == "torchvision/resnet18":
                yield zoo.Weights(path="/mnt/weights/resnet18-f37072fd.pth", sha256="f37072fd")

    Args:
        backbone: Its declaration, with its full name.

    Returns:
        Places, tried in this order, before the backbone's own.
    """


@hookspec
def zoo_sources() -> Mapping[str, Callable[[str], object]]:  # type: ignore[empty-body]
    """Declare data sources: what `--data` may name besides folders and tables.

    Called when `--data` names neither an existing folder nor a table. zoo splits, checks and caches
    what a source gives as it does a folder's images.

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
        Functions by the source's name. Each gets what `--data` says and gives a
        `zoo.data.sources.Source`, or None if it is not meant. A sample's `load` gives the bytes of
        its encoded image; its name must stay the same, since splits and caches go by it.
    """


@hookspec
def zoo_loggers() -> Mapping[str, Callable[[], Callable[[object], None]]]:  # type: ignore[empty-body]
    """Declare loggers, which receive what happens during a run.

    Called when a run is started with `--logger NAME`. Import your own library in the function that
    makes the logger; a ModuleNotFoundError there is reported as the package to install.

        @zoo.hookimpl
        def zoo_loggers():
            return {"acme": AcmeLogger}

        class AcmeLogger:
            def __call__(self, event):
                if isinstance(event, zoo.events.EpochEnd):
                    print(event.epoch, event.metrics["val_loss"])

    Returns:
        Functions without arguments by the logger's name. Each gives a function of one event of
        `zoo.events`, called in the main process only; the first event after the plan is `RunStart`,
        the last `RunEnd`. A logger that raises is switched off with a warning.
    """
