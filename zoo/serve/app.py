"""The HTTP interface: endpoints, limits on requests, and what an error looks like."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zoo.errors import DataError, ZooError
from zoo.io.text import printable
from zoo.runs.answer import answer
from zoo.runs.read import Asked, Run
from zoo.serve import Settings
from zoo.serve.body import RefusedError, images_in
from zoo.serve.engine import Answer, Engine
from zoo.serve.metrics import Metrics
from zoo.serve.page import content_security_policy, page

_LOG = logging.getLogger("zoo.serve")

#: Digits of a length that is read; more are too many bytes whatever the limit is.
_LENGTH_DIGITS = 15

#: Paths that metrics name; others are counted together, because anybody can ask for any.
_PATHS = ("/", "/predict", "/health", "/metrics", "/openapi.json")

_IMAGE = {"type": "string", "format": "binary"}
_BASE64 = {"type": "string", "format": "byte"}


def _object(name: str, schema: dict[str, object]) -> dict[str, object]:
    return {"type": "object", "properties": {name: schema}, "required": [name]}


def _list(items: dict[str, str]) -> dict[str, object]:
    return {"type": "array", "items": items}


_SCHEMAS = {
    "multipart/form-data": {"type": "object", "properties": {"images": _list(_IMAGE)}},
    "application/json": {
        "oneOf": [_object("image", {**_BASE64}), _object("images", _list(_BASE64))]
    },
    "image/*": _IMAGE,
    "application/octet-stream": _IMAGE,
}

#: The body of a prediction's request, for OpenAPI.
_BODY = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": schema} for kind, schema in _SCHEMAS.items()},
    }
}


class Ranked(BaseModel):
    """A class and its probability, 0..1."""

    label: str
    probability: float


class Classified(BaseModel):
    """The prediction for one image.

    Attributes:
        label: The most probable class, null if unsure; single-label runs.
        probability: Its probability; single-label runs.
        unsure: Whether the probability is below what the service asks for; single-label runs.
        labels: The predicted labels; multi-label runs.
        label_set: Classes of which one is the right one with the probability asked for.
        unfamiliar: Whether the image is unlike the training images; null if unknown.
        distance: Distance from the training images, 1 at the limit of what is familiar.
        top: The most probable classes.
        heat_map: Where the network found its evidence, as `data:` URL; null if it has no such map.
    """

    label: str | None = None
    probability: float | None = None
    unsure: bool | None = None
    labels: list[str] | None = None
    label_set: list[str] | None = None
    unfamiliar: bool | None
    distance: float | None
    top: list[Ranked]
    heat_map: str | None = None


class Predictions(BaseModel):
    """The predictions for the images of a request, in their order."""

    predictions: list[Classified]


class Failed(BaseModel):
    """Why a request has no answer."""

    error: str


@dataclass
class _Held:
    """Bytes of the bodies that are in memory."""

    count: int = 0


def build(run: Run, settings: Settings, asked: Asked) -> FastAPI:
    """Return the application; see `zoo.serve.create_app`."""
    metrics = Metrics()
    whole = replace(asked, top_k=len(run.class_names))
    engine = Engine(run, whole, settings, metrics.batches.observe)
    metrics.in_progress.set_function(lambda: engine.places)
    service = _Service(run, settings, asked, engine, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.close)

    name = run.path.resolve().name
    # The documentation pages of FastAPI load scripts from other servers.
    app = FastAPI(
        title=f"zoo: {name}",
        version=run.info.versions.get("zoo", ""),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.metrics, app.state.held = metrics, _Held()
    app.add_middleware(_Counted, metrics=metrics)
    _answer_errors(app)
    shown = page(run, settings)
    policy = {"content-security-policy": content_security_policy(shown)}

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(shown, headers=policy | {"x-content-type-options": "nosniff"})

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses={503: {"model": Failed}})
    async def health() -> Response:
        """Whether the service classifies images, and which run it serves."""
        if not engine.alive:
            raise RefusedError(503, "the service does not classify images any more")
        return JSONResponse(service.about())

    @app.get("/metrics", include_in_schema=False)
    async def report() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    failed: dict[int | str, dict[str, Any]] = {
        status: {"model": Failed} for status in (400, 408, 413, 415, 422, 500, 503)
    }

    @app.post("/predict", responses={200: {"model": Predictions}, **failed}, openapi_extra=_BODY)
    async def predict(
        request: Request,
        heat_map: bool = False,
        top_k: Annotated[int, Query(ge=1)] = asked.top_k,
    ) -> Response:
        """Classify images: a form with files, JSON with base64, or the bytes of one image."""
        started = time.monotonic()
        answers = await service.predict(request, heat=heat_map)
        found = [service.as_dict(each, top_k=top_k, heat=heat_map) for each in answers]
        metrics.seconds.observe(time.monotonic() - started)
        return JSONResponse({"predictions": found})

    return app


@dataclass(frozen=True)
class _Service:
    """What endpoints share."""

    run: Run
    settings: Settings
    asked: Asked
    engine: Engine
    metrics: Metrics

    def about(self) -> dict[str, object]:
        info = self.run.info
        return {
            "status": "ok",
            "run": self.run.path.resolve().name,
            "backbone": info.backbone,
            "task": info.task,
            "classes": len(info.class_names),
            "zoo_version": info.versions.get("zoo", ""),
        }

    def as_dict(self, found: Answer, *, top_k: int, heat: bool) -> dict[str, object]:
        """Return the JSON of an answer, and count it."""
        prediction = replace(found.prediction, top=found.prediction.top[:top_k])
        self.metrics.images.inc()
        self.metrics.unsure.inc(prediction.unsure)
        self.metrics.unfamiliar.inc(prediction.familiar is False)
        fields = answer(
            prediction,
            several=not self.run.task.exclusive,
            sets=self.asked.least_in_set is not None,
        )
        return fields | ({"heat_map": found.heat or None} if heat else {})

    async def predict(self, request: Request, *, heat: bool) -> list[Answer]:
        """Read the images of a request, and classify them.

        Raises:
            RefusedError: The request is invalid, or the service has no room or time for it.
        """
        seconds = self.settings.timeout
        read = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                return await self._answers(request, heat, read)
        except TimeoutError:
            if not read.is_set():
                raise RefusedError(
                    408, f"the request did not arrive within {seconds:g} s"
                ) from None
            raise RefusedError(
                503, f"the request was not answered within {seconds:g} s", hint="try again later"
            ) from None
        except ClientDisconnect:
            raise RefusedError(400, "the request ended too early") from None

    async def _answers(self, request: Request, heat: bool, read: asyncio.Event) -> list[Answer]:
        engine, settings = self.engine, self.settings
        engine.reserve(1)
        unused = 1
        try:
            async with _body(request, settings) as body:
                read.set()
                images = await asyncio.get_running_loop().run_in_executor(
                    engine.pool,
                    images_in,
                    request.headers.get("content-type", ""),
                    body,
                    settings.max_images,
                )
                engine.reserve(len(images) - 1)
                unused = len(images)
                answers = []
                for image in images:
                    answers.append(asyncio.wrap_future(engine.classify(image, heat=heat)))
                    unused -= 1
                found = await asyncio.gather(*answers, return_exceptions=True)
        finally:
            engine.give_back(unused)
        for n, each in enumerate(found, 1):
            if isinstance(each, DataError):
                which = f"image {n}: " if len(found) > 1 else ""
                raise RefusedError(422, f"{which}{each.text}", hint=each.hint)
            if isinstance(each, BaseException):
                raise each
        return [each for each in found if isinstance(each, Answer)]


@asynccontextmanager
async def _body(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    """Context with the body of a request, whose length is checked while it is read.

    Raises:
        RefusedError: It is too large, or all bodies that are read now are.
    """
    most = settings.max_bytes
    too_large = RefusedError(413, f"the request is too large; up to {most:,} bytes are accepted")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > _LENGTH_DIGITS or int(declared) > most):
        raise too_large
    held: _Held = request.app.state.held
    parts: list[bytes] = []
    taken = 0
    try:
        async for part in request.stream():
            taken += len(part)
            held.count += len(part)
            if taken > most:
                raise too_large
            if held.count > settings.held_bytes:
                raise RefusedError(503, "the service is busy", hint="try again in a second")
            parts.append(part)
        body = b"".join(parts)
        parts.clear()
        yield body
    finally:
        held.count -= taken


def _answer_errors(app: FastAPI) -> None:
    """Answer every error as JSON with a sentence."""

    def failed(status: int, text: str) -> JSONResponse:
        headers = {"retry-after": "1"} if status == 503 else None
        return JSONResponse({"error": text}, status_code=status, headers=headers)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return failed(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {printable(request.url.path)[:200]}: {error.detail}"
        response = failed(error.status_code, what)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        problems = (f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
        return failed(422, "; ".join(problems))

    @app.exception_handler(ZooError)
    async def broken(_: Request, error: ZooError) -> Response:
        _LOG.error("%s", error)
        return failed(500, str(error))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        # The server logs it.
        return failed(500, "internal error")


class _Counted:
    """Middleware that counts responses by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def count(status: int) -> None:
            path = scope["path"] if scope["path"] in _PATHS else "other"
            self.metrics.requests.labels(path, str(status)).inc()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send_counted)
        except Exception:
            # It is answered further out.
            count(500)
            raise
