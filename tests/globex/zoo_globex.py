"""Globex's RegNets: torchvision's networks, trained by Globex on photos of its products."""

import functools

import zoo

MIRROR = "https://weights.globex.example"

NETWORKS = {  # And the beginning of the SHA-256 of the weights of each.
    "regnet_y_400mf": "5f2a9c31",
    "regnet_y_800mf": "0be47d82",
    "regnet_x_400mf": "c94413fa",
    "regnet_x_800mf": "77d0e6b5",
}


def build(name, weights, num_classes, pretrained):
    from torchvision.models import get_model

    model = get_model(name, num_classes=num_classes or weights.num_classes)
    if pretrained:
        model.load_state_dict(zoo.weights.read_state_dict(zoo.weights.fetch(weights)))
    return model


@zoo.hookimpl
def zoo_backbones():
    for name, sha256 in NETWORKS.items():
        url = f"{MIRROR}/{name}-{sha256}.safetensors"
        weights = zoo.Weights(url=url, sha256=sha256, num_classes=12, license="Globex")
        yield zoo.Backbone(
            name=name,
            build=functools.partial(build, name, weights),
            head="fc",
            stages=("stem", "trunk_output.*"),
            preprocess=zoo.Preprocess(size=192, mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0),
            weights=weights,
        )
