"""The hooks that a plugin may implement: the whole contract between zoo and its plugins."""

from collections.abc import Iterable

import pluggy

from zoo.backbone import Backbone

#: Entry-point group that plugins register in, and pluggy's project name.
PROJECT = "zoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def zoo_backbones() -> Iterable[Backbone]:  # type: ignore[empty-body]
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
        The declarations, in any order. Two with one name are an error of the plugin.
    """
