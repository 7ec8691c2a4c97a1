"""A hook of mkdocs that adds the page backbones.md: every backbone that zoo's own plugins declare.

It needs the declarations only and builds no network.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from zoo import plugins

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

    from zoo.backbone import Backbone

PLUGINS = ("torchvision", "timm", "transformers", "zoo")

COLUMNS = (
    "backbone",
    "params",
    "GMACs",
    "input",
    "head",
    "weights",
    "top-1",
    "trained on",
    "licence",
)

HEADING = """# Backbones

{count} backbones, as declared with {versions}. Each of them passes the checks of the
[conformance kit](plugins.md#the-conformance-kit) that need no values; with a new head, every other
tensor is equal to the loaded one, bit by bit.

*Params* are millions of parameters with the original head, *GMACs* billions of multiply-accumulates
for an image of the input size, torchvision's as it publishes them and timm's as counted for zoo.
*Input* is the side of the images in pixels, *fixed* if the network takes no other; *weights* is the
library's tag of the pretrained weights, *top-1* their published accuracy on ImageNet-1K in per
cent, *trained on* what the library says of their data, and the licence is theirs. timm's package
states no accuracies; they are in
[its repository](https://github.com/huggingface/pytorch-image-models/tree/main/results).
`zoo backbones` sorts and filters by these columns: see
[Choosing a backbone](weights.md#choosing-a-backbone).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page; mkdocs calls this with the files of the docs folder."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "backbones.md", content=page()))
    return files


def page() -> str:
    """The page's text.

    Raises:
        PluginError: One of zoo's own plugins can't be loaded.
    """
    declared = {name: plugins.of(name)[0] for name in PLUGINS}
    count = sum(len(plugin.backbones) for plugin in declared.values())
    libraries = ("torchvision", "timm", "transformers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in libraries)
    parts = [HEADING.format(count=f"{count:,}", versions=versions)]
    for name, plugin in declared.items():
        rows = [_row(backbone) for _, backbone in sorted(plugin.backbones.items())]
        parts.append(f"## {name}: {len(rows):,}\n")
        parts.append(
            f"| {' | '.join(COLUMNS)} |\n|---|---:|---:|---|---|---|---:|---|---|\n"
            + "\n".join(rows)
            + "\n"
        )
        if plugin.left_out:
            parts.append("Left out:\n")
            left_out = plugin.left_out.values()
            parts.append("".join(f"- `{x.name}`: {x.reason}\n" for x in left_out))
    return "\n".join(parts)


def _row(backbone: Backbone) -> str:
    height, width = backbone.preprocess.height_width
    fixed = " fixed" if backbone.preprocess.fixed_size and backbone.resized is None else ""
    weights = backbone.weights
    cells = (
        f"`{backbone.name.partition('/')[2]}`",
        "" if backbone.parameters is None else f"{backbone.parameters / 1e6:,.1f}",
        "" if backbone.macs is None else f"{backbone.macs / 1e9:,.2f}",
        (str(height) if height == width else f"{height}x{width}") + fixed,
        ", ".join(backbone.head_paths),
        (weights.tag or weights.place) if weights else "none",
        "" if weights is None or weights.top_1 is None else f"{weights.top_1:.1f}",
        (weights.data or "not stated") if weights else "",
        (weights.license or "not stated") if weights else "",
    )
    return f"| {' | '.join(cells)} |"
