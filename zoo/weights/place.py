"""The places where a backbone's pretrained weights may be, in the order they are tried."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from zoo import plugins
from zoo.backbone import Backbone, Weights
from zoo.errors import PluginError
from zoo.io.files import expand, is_file
from zoo.plugins import Plugin
from zoo.weights.added import ADDED, added_path, origin
from zoo.weights.retrieval import HUB_FILES, locate

Kind = Literal["added", "plugin", "mirror", "own"]

#: Environment variable with a folder, or the address of a server, with copies of published weights.
MIRROR = "ZOO_WEIGHTS_MIRROR"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where pretrained weights may be.

    Attributes:
        weights: The declaration of the place.
        kind: `added` with `zoo weights add`, declared by a `plugin`, the `mirror` of the
            environment variable ZOO_WEIGHTS_MIRROR, or the backbone's `own`.
        by: Description of who declares it.
        file: The file, if it is on this machine.
    """

    weights: Weights
    kind: Kind
    by: str
    file: Path | None

    @property
    def remote(self) -> bool:
        """Whether the file can be downloaded from there."""
        return self.weights.url is not None or self.weights.hub is not None


def places(backbone: Backbone) -> list[Place]:
    """Return the places that are tried for the pretrained weights, in order.

    These are a file added with `zoo weights add`, the places from each plugin's `zoo_weights`,
    sorted by plugin, the mirror in `ZOO_WEIGHTS_MIRROR`, and the backbone's own declaration. A
    failing plugin causes a UserWarning.

    Args:
        backbone: Declaration of the backbone, from `zoo.backbones`.
    """
    found, notes = find_places(backbone)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return found


def is_here(name: str, weights: Weights | None) -> bool:
    """Return whether weights are on this machine: added, on a mounted mirror or in a cache.

    Plugins are not asked, so that this can be answered for all backbones at once.
    """
    if is_file(added_path(name)):
        return True
    if weights is None:
        return False
    mirrored = _mirrored(weights)
    return locate(weights, own=True) is not None or (
        mirrored is not None and locate(mirrored) is not None
    )


def find_places(backbone: Backbone) -> tuple[list[Place], tuple[str, ...]]:
    """Return the same as `places`, and notes on plugins that failed or printed something."""
    found: list[Place] = []
    notes: list[str] = []
    file = added_path(backbone.name)
    if is_file(file):
        made_from = origin(file)
        declared = Weights(path=str(file), tag=None if made_from is None else f"from {made_from}")
        found.append(Place(weights=declared, kind="added", by=ADDED, file=file))
    for plugin in plugins.connect_all():
        if plugin.state == "disabled":
            continue
        printed: list[str] = []
        try:
            found += _declared_by(plugin, backbone, printed)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - plugin code can raise anything, SystemExit too
            cause = plugins.explain(error)
            notes.append(f"plugin {plugin} failed while listing weights: {cause}")
        notes += [f"plugin {plugin}, asked where weights are, printed: {text}" for text in printed]
    if backbone.weights is not None:
        if (mirrored := _mirrored(backbone.weights)) is not None:
            by = f"the mirror {os.environ[MIRROR]}"
            found.append(Place(weights=mirrored, kind="mirror", by=by, file=locate(mirrored)))
        file_or_none = locate(backbone.weights, own=True)
        by = f"{backbone.name.partition('/')[0]} (default)"
        found.append(Place(weights=backbone.weights, kind="own", by=by, file=file_or_none))
    return found, tuple(notes)


def _mirrored(weights: Weights) -> Weights | None:
    """Return the copy on the mirror, `FILE` of a URL or `OWNER/NAME/FILE` of a hub repository."""
    root = os.environ.get(MIRROR)
    if not root or (weights.url is None and weights.hub is None):
        return None
    if weights.url is not None:
        name = urlsplit(weights.url).path.rpartition("/")[2]
    else:
        repository = str(weights.hub).partition("@")[0]
        name = f"{repository}/{weights.file or HUB_FILES[0]}"
    if "://" in root:
        return replace(weights, url=f"{root.rstrip('/')}/{name}", hub=None, file=None)
    return replace(weights, path=str(expand(root) / name), url=None, hub=None, file=None)


def _declared_by(plugin: Plugin, backbone: Backbone, printed: list[str]) -> list[Place]:
    if plugin.hooks is None:
        raise PluginError(f"{plugin.state}: {plugin.cause}")
    hook = plugin.hooks.hook.zoo_weights
    if not hook.get_hookimpls():
        return []
    with plugins.off_stdout(printed):
        answers: list[object] = [each for result in hook(backbone=backbone) for each in result]
    said: list[Place] = []
    for each in answers:
        if not isinstance(each, Weights):
            raise PluginError(f"zoo_weights gave {each!r}, not zoo.Weights")
        said.append(Place(weights=each, kind="plugin", by=f"plugin {plugin}", file=locate(each)))
    return said
