"""`zoo show`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from zoo.cli.words import echo

if TYPE_CHECKING:
    from zoo.backbone import Backbone


@click.command(
    "show", short_help="Show one backbone: layers, head, groups, preprocessing, weights."
)
@click.argument("name")
@click.option(
    "--depth",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Levels of nested layers to list.",
)
def command(name: str, depth: int) -> None:
    """Show the layers, head, parameter groups, preprocessing and weights of the backbone NAME."""
    import torchinfo

    from zoo import plugins
    from zoo.model.depth import depths
    from zoo.model.groups import split_parameters
    from zoo.model.head import head_leaves

    backbone = plugins.get(name)
    model = plugins.build(backbone, None, False)
    height, width = backbone.preprocess.height_width
    summary = torchinfo.summary(
        model,
        input_size=(1, 3, height, width),
        depth=depth,
        col_names=("output_size", "num_params"),
        row_settings=("var_names",),
        verbose=0,
        mode="eval",
    )
    # torchinfo prints units of its own as Python's enum does: Units.GIGABYTES.
    echo(re.sub(r"Units\.(\w)\w+", r"\1", str(summary)))
    layers = depths(model, backbone)
    of_backbone, of_head = split_parameters(model, backbone)
    preprocess, weights = backbone.preprocess, backbone.weights
    echo(f"\nbackbone       {backbone.name}")
    for path, leaf in head_leaves(model, backbone).items():
        echo(f"head           {path}: {leaf}")
    if backbone.neck:
        echo(f"neck           {', '.join(backbone.neck)}")
    for depth, paths in enumerate(layers.stages if layers.declared else ()):
        echo(f"{'' if depth else 'stages':15}{depth + 1:2}  {', '.join(paths)}")
    echo(f"groups         backbone {sum(p.numel() for p in of_backbone):,} parameters")
    head = f"head {sum(p.numel() for p in of_head):,} parameters" if of_head else "no head yet"
    echo(f"               {head} (a new one is made for your classes)")
    echo(
        f"preprocessing  resize {'x'.join(map(str, preprocess.resize))} "
        f"({preprocess.interpolation}, {preprocess.crop_mode}), crop {height}x{width}"
        f"{_size_note(backbone)}"
    )
    echo(f"               mean {_numbers(preprocess.mean)}, std {_numbers(preprocess.std)}")
    if weights is None:
        echo("weights        none")
        return
    echo(f"weights        {weights.tag or 'pretrained'}, from {weights.place}")
    echo(f"sha256         {weights.sha256 or 'none to check against'}")
    echo(f"licence        {weights.license or 'not stated'}")


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _size_note(backbone: Backbone) -> str:
    if not backbone.preprocess.fixed_size:
        return ""
    return " (no other size)" if backbone.resized is None else " (built anew for another size)"
