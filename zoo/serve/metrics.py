"""What `/metrics` reports, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of a service, from its start."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter("zoo_requests", "Responses.", ["path", "status"], registry=registry)
        self.seconds = Histogram("zoo_request_seconds", "Predictions.", registry=registry)
        self.images = Counter("zoo_images", "Classified images.", registry=registry)
        self.unsure = Counter(
            "zoo_unsure_images", "Images with an unsure label.", registry=registry
        )
        self.unfamiliar = Counter(
            "zoo_unfamiliar_images", "Images unlike the training images.", registry=registry
        )
        self.batches = Histogram(
            "zoo_batch_images", "Images per forward pass.", buckets=_BATCHES, registry=registry
        )
        self.in_progress = Gauge(
            "zoo_images_in_progress", "Images read, decoded or classified now.", registry=registry
        )

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
