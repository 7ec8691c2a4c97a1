"""`zoo serve`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import click

from zoo.cli.options import allocator_option, answer_options, asked_of, device_option
from zoo.cli.start import starting
from zoo.cli.words import echo


@click.command("serve", short_help="Serve a run over HTTP, with a page to try it.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0: all of this machine's. There is no authentication.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0: any that is free.",
)
@click.option(
    "--top-k", type=click.IntRange(1), default=5, show_default=True, help="Classes per image."
)
@answer_options
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Images per forward pass, at most.",
)
@click.option(
    "--max-latency",
    type=click.FloatRange(0, 10_000),
    default=10,
    show_default=True,
    metavar="MS",
    help="Milliseconds that an image waits for others of its batch, at most.",
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Images that are accepted before they are answered; beyond that, requests get status 503.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(0, 512, min_open=True),
    default=20,
    show_default=True,
    metavar="MB",
    help="Size of a request, at most.",
)
@click.option(
    "--max-images",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Images per request, at most.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, min_open=True),
    metavar="MP",
    help="Size of an image, at most.  [default: 89, the most that zoo decodes]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, 3600, min_open=True),
    default=30,
    show_default=True,
    metavar="S",
    help="Seconds until a request is answered, at most.",
)
@device_option
@allocator_option
def command(
    run: Path,
    host: str,
    port: int,
    top_k: int,
    batch_size: int,
    max_latency: float,
    queue: int,
    max_megabytes: float,
    max_images: int,
    max_megapixels: float | None,
    timeout: float,
    device: str,
    allocator_tuning: bool,
    **asked: Any,
) -> None:
    """Serve RUN, a run folder or its model.safetensors, over HTTP.

    / is a page on which an image is dropped, pasted, chosen or photographed. POST /predict takes a
    form with files, JSON with base64, or the bytes of an image, and answers as zoo predict --format
    json does; ?heat_map=true adds where the network found its evidence. /health and /metrics
    (Prometheus) are for monitoring, /openapi.json describes the API. No file or URL that a client
    names is read.

    On SIGTERM or Ctrl-C, requests that were accepted are answered, and the exit code is 0.

    \b
      zoo serve runs/photos-resnet18
      curl --data-binary @a.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/predict
    """
    with starting(allocator_tuning=allocator_tuning):
        from zoo import serve
        from zoo.runs.read import load

        serve.need_libraries()
        from zoo.serve import server

    given = {} if max_megapixels is None else {"max_pixels": round(max_megapixels * 1e6)}
    settings = serve.Settings(
        batch_size=batch_size,
        max_latency=max_latency / 1000,
        queue=queue,
        max_bytes=round(max_megabytes * 1e6),
        max_images=max_images,
        timeout=timeout,
        **given,
    )
    # Before the run is loaded, which takes seconds.
    bound = server.listen(host, port)
    with bound:
        loaded = load(run, device=device)
        wanted = asked_of(loaded, top_k=top_k, **asked)
        app = serve.create_app(loaded, settings, asked=wanted)
        if not _is_loopback(host):
            echo(
                f"! anybody who can reach {host} can use the service: it has no authentication",
                err=True,
            )
        place = _url(*bound.getsockname()[:2])
        server.serve(
            app, bound, timeout=timeout, ready=lambda: echo(f"serving {run} on {place}", err=True)
        )
    images = app.state.metrics.registry.get_sample_value("zoo_images_total")
    echo(f"stopped; images classified: {images:.0f}", err=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
