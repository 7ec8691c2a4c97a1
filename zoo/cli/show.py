"""`zoo show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoo.cli.options import complete_backbone
from zoo.cli.tables import number, print_facts, print_table, text
from zoo.cli.words import echo
from zoo.io.text import count

if TYPE_CHECKING:
    from zoo.backbone import Backbone


@click.command(
    "show", short_help="Show one backbone: layers, head, groups, preprocessing, weights."
)
@click.argument("name", shell_complete=complete_backbone)
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
    from zoo.models.depth import depths
    from zoo.models.groups import split_parameters
    from zoo.models.head import head_leaves
    from zoo.models.variant import default_text

    backbone = plugins.get(name)
    model = plugins.build(backbone, None, False)
    height, width = backbone.preprocess.height_width
    summary = torchinfo.summary(model, input_size=(1, 3, height, width), verbose=0, mode="eval")
    print_table(
        [text("layer"), text("type"), number("output"), number("parameters")],
        [
            (
                f"{'  ' * layer.depth}{layer.var_name}",
                layer.class_name,
                " x ".join(map(str, layer.output_size[1:])),
                f"{layer.num_params:,}",
            )
            for layer in summary.summary_list
            if layer.depth <= depth
        ],
    )
    layers = depths(model, backbone)
    of_backbone, of_head = split_parameters(model, backbone)
    preprocess, weights = backbone.preprocess, backbone.weights
    new_head = (
        f"head {count(sum(p.numel() for p in of_head), 'parameter')}" if of_head else "no head yet"
    )
    resize = (
        f"resize {'x'.join(map(str, preprocess.resize))} "
        f"({preprocess.interpolation}, {preprocess.crop_mode})"
    )
    facts = [
        ("backbone", backbone.name),
        ("work", f"{summary.total_mult_adds / 1e9:.3g} G multiply-adds per image"),
        *(("head", f"{path}: {leaf}") for path, leaf in head_leaves(model, backbone).items()),
    ]
    if backbone.neck:
        facts.append(("neck", ", ".join(backbone.neck)))
    for stage, paths in enumerate(layers.stages if layers.declared else (), 1):
        facts.append(("stages" if stage == 1 else "", f"{stage:2}  {', '.join(paths)}"))
    facts += [
        ("groups", f"backbone {count(sum(p.numel() for p in of_backbone), 'parameter')}"),
        ("", f"{new_head} (a new one is made for your classes)"),
        ("preprocessing", f"{resize}, crop {height}x{width}{_size_note(backbone)}"),
        ("", f"mean {_numbers(preprocess.mean)}, std {_numbers(preprocess.std)}"),
    ]
    for n, (option, about) in enumerate(backbone.options.items()):
        limits = f"{about.values}, default: {default_text(about.default)}"
        facts.append(("options" if n == 0 else "", f"{option}  {about.help} ({limits})"))
    facts.append(
        ("weights", f"{weights.tag or 'pretrained'}, from {weights.place}" if weights else "none")
    )
    if weights is not None:
        facts.append(("sha256", weights.sha256 or "none to check against"))
        facts.append(("licence", weights.license or "not stated"))
    echo()
    print_facts(facts)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _size_note(backbone: Backbone) -> str:
    if not backbone.preprocess.fixed_size:
        return ""
    return " (no other size)" if backbone.resized is None else " (rebuilt for another size)"
