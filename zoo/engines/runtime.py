"""Call exporters and load exported files, with errors that name the exporter."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from zoo import plugins
from zoo.errors import PluginError, ZooError
from zoo.exporter import Exporter

#: Function from images to logits, as returned by `Exporter.open`.
Compute = Callable[[np.ndarray], np.ndarray]


@contextmanager
def calling(name: str, exporter: Exporter) -> Iterator[None]:
    """Convert an exporter's exceptions to errors that name it, and keep its output off stdout.

    Raises:
        PluginError: If the exporter raised an exception (its cause) other than a ZooError.
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
    """Load an exported file with the format's runtime, as a function from images to logits.

    Returns:
        A function that raises PluginError if the runtime fails, or returns anything but finite
        logits (N, classes).

    Raises:
        PluginError: If the file can't be opened.
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
