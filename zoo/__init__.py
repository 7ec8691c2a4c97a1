"""zoo fine-tunes any pretrained image classifier.

    run = zoo.finetune("photos", backbone="resnet18")
    run.predict(["a.jpg"])

Everything here is loaded when first used, so that `import zoo` costs no torch. The names and where
they come from are in __init__.pyi.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
