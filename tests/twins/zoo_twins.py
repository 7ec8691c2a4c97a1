"""zoo's plugin for TwinNet."""

import functools

import zoo

PATCH = 8

WEIGHTS = zoo.Weights(
    url="https://twins.example/twinnet-58a93b1c.pth",
    tag="ImageNet-1k, 64 pixels",
    sha256="58a93b1c",
    license="MIT",
)


def build(size, num_classes, pretrained, **options):
    from twinnet import TwinNet

    model = TwinNet(image_size=size, **options)  # It takes no class count, so zoo calls `replace`.
    if pretrained:
        published = zoo.weights.read_state_dict(zoo.weights.fetch(WEIGHTS))
        model.load_state_dict(convert(size, published))
    return model


def replace(head, num_classes):
    from twinnet import Cosine

    return Cosine(head.prototypes.shape[1], num_classes)


def convert(size, state_dict):
    """From the published names to the model's, and from the published size to this one."""
    import torch
    from torch.nn.functional import interpolate

    state_dict = {name.removeprefix("encoder."): x for name, x in state_dict.items()}
    tokens, grid = state_dict["position"].split([2, len(state_dict["position"][0]) - 2], dim=1)
    old, new = round(grid.shape[1] ** 0.5), size // PATCH
    if old != new:
        grid = grid.unflatten(1, (old, old)).permute(0, 3, 1, 2)
        grid = interpolate(grid, (new, new), mode="bicubic", antialias=True)
        grid = grid.permute(0, 2, 3, 1).flatten(1, 2)
        state_dict["position"] = torch.cat([tokens, grid], dim=1)
    return state_dict


def declare(size):
    if size % PATCH:
        raise ValueError(f"it cuts images into squares of {PATCH} pixels")
    return zoo.Backbone(
        name="twinnet",
        build=functools.partial(build, size),
        head=zoo.Head(
            paths=("student", "teacher"),
            aux=(1.0,),  # In train mode it gives (student's logits, teacher's logits).
            neck=("norm",),
            replace=replace,
        ),
        stages=(("patchify", "tokens", "position"), "layers.*"),
        preprocess=zoo.Preprocess(
            size=size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=1.0, fixed_size=True
        ),
        resized=declare,
        options={
            "dropout": zoo.Option(
                kind=float, default=0.0, minimum=0, maximum=0.9, help="Dropout of the tokens."
            ),
        },
        weights=WEIGHTS,
        convert=functools.partial(convert, size),
    )


@zoo.hookimpl
def zoo_backbones():
    yield declare(64)
