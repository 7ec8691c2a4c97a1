"""Call an exporter, and name it when that fails."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from zoo import plugins
from zoo.errors import PluginError, ZooError
from zoo.exporter import Exporter

#: Images to logits, as `Exporter.open` gives it.
Compute = Callable[[np.ndarray], np.ndarray]


@contextmanager
def calling(name: str, exporter: Exporter) -> Iterator[None]:
    """Turn what an exporter raises into an error that names it; what it prints stays off stdout.

    Raises:
        PluginError: What was raised is its cause. zoo's own errors pass as they are.
    """
    try:
        with plugins.off_stdout([]):
            yield
    except ModuleNotFoundError as error:
        package = shlex.quote(exporter.install or error.name or "?")
        raise PluginError(
            f"exporter {name} needs {error.name}, which is not installed: pip install {package}"
        ) from error
    except ZooError:
        raise
    except Exception as error:
        raise PluginError(f"exporter {name} failed: {plugins.explain(error)}") from error


def load_exported(name: str, exporter: Exporter, file: Path, classes: int) -> Compute:
    """The exported file as a function of images, by the format's runtime.

    Args:
        name: Of the format.
        exporter: Its exporter.
        file: What it wrote.
        classes: Logits an image.

    Returns:
        A function that raises PluginError if the runtime fails, or gives anything but finite logits
        (N, classes).

    Raises:
        PluginError: The file can't be opened.
    """
    with calling(name, exporter):
        compute = exporter.open(file)

    def checked(images: np.ndarray) -> np.ndarray:
        with calling(name, exporter):
            logits = compute(images)
        shape = (len(images), classes)
        if not isinstance(logits, np.ndarray) or logits.dtype.kind != "f" or logits.shape != shape:
            found = getattr(logits, "shape", type(logits).__name__)
            raise PluginError(f"exporter {name}: its file gives {found} instead of logits {shape}")
        if not np.isfinite(logits).all():
            raise PluginError(f"exporter {name}: its file gives logits that are NaN or infinite")
        return logits

    return checked
