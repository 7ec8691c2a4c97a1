"""A run as an HTTP service: an API, metrics, and a page to try it in a browser (`zoo serve`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.data.headers import MAX_PIXELS
from zoo.errors import OptionError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from zoo.runs.read import Asked, Run


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits of a service.

    Attributes:
        batch_size: Maximum number of images per forward pass.
        max_latency: Seconds that an image waits for others of its batch, at most; it waits only
            while other requests are being read or decoded.
        queue: Images that are being read, decoded or classified, or wait for it, at most.
        max_bytes: Size of a request's body.
        max_images: Images in a request.
        max_pixels: Pixels of an image.
        timeout: Seconds until a request is answered, at most.
    """

    batch_size: int = 16
    max_latency: float = 0.01
    queue: int = 128
    max_bytes: int = 20 * 2**20
    max_images: int = 16
    max_pixels: int = MAX_PIXELS
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if self.queue < self.max_images:
            raise OptionError(
                f"a queue of {self.queue} has no room for a request of {self.max_images} images",
                hint="increase `queue` or reduce `max_images`",
            )

    @property
    def held_bytes(self) -> int:
        """Total size of the bodies that are held at once, at most."""
        return 16 * self.max_bytes


def create_app(
    run: Run, settings: Settings | None = None, *, asked: Asked | None = None
) -> FastAPI:
    """Return a service as an ASGI application.

    Args:
        run: The run, as `load` returns it.
        settings: Limits; None: the defaults.
        asked: What is asked of predictions, as `Run.asked` returns it; None: its defaults.

    Raises:
        OptionError: A library of the extra `serve` is not installed.
    """
    need_libraries()
    from zoo.serve.app import build

    return build(run, settings or Settings(), asked or run.asked())


def need_libraries() -> None:
    """Raise an `OptionError` if a library of the extra `serve` is not installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise OptionError(
            f"a service needs libraries that are not installed: {error}",
            hint="pip install 'zoo-finetune[serve]'",
        ) from error
