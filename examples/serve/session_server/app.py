"""The service's paths: one that classifies, one that says that it lives."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
import numpy as np
from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from .errors import PictureError, TooLarge
from .images import FORMATS, decode
from .model import Model
from .settings import Settings

BODY = {
    "requestBody": {
        "required": True,
        "content": {f"image/{name.lower()}": {"schema": {"type": "string", "format": "binary"}} for name in FORMATS},
    }
}


class ClassProbability(BaseModel):
    """One class and how probable it is, 0 to 1."""

    name: str
    probability: float


class Answer(BaseModel):
    """The most probable class, and the first five in order."""

    session: str
    name: str
    probability: float
    best: list[ClassProbability]


def build_app(model: Model, settings: Settings) -> FastAPI:
    """Build the service around a model that is loaded."""
    app = FastAPI(title=f"Classifier of session {settings.session}", docs_url="/", redoc_url=None)
    turns = CapacityLimiter(settings.at_once)

    @app.exception_handler(PictureError)
    async def refuse(request: Request, error: PictureError) -> JSONResponse:
        del request
        return JSONResponse({"error": str(error)}, status_code=error.status)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the service answers; it listens only once the model is loaded."""
        return {"session": settings.session}

    @app.post("/classify", openapi_extra=BODY)
    async def classify(request: Request) -> Answer:
        """Classify the picture in the body: a JPEG, PNG, BMP, GIF or WebP file."""
        data = await _body(request, settings.most_bytes)
        best = await anyio.to_thread.run_sync(_classify, model, data, settings.most_pixels, limiter=turns)
        return Answer(session=settings.session, best=best, **best[0].model_dump())

    return app


async def _body(request: Request, most_bytes: int) -> bytes:
    """Read the body, and no more than is taken; raises TooLarge."""
    refusal = TooLarge(f"The body is larger than {most_bytes:,} bytes; send a smaller picture.")
    declared: Any = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most_bytes:
        raise refusal
    data = bytearray()
    # What is declared need not be true, and need not be declared at all.
    async for piece in request.stream():
        data += piece
        if len(data) > most_bytes:
            raise refusal
    return bytes(data)


def _classify(model: Model, data: bytes, most_pixels: int) -> list[ClassProbability]:
    probabilities = model.classify(decode(data, most_pixels))
    order = np.argsort(-probabilities)[:5]
    return [ClassProbability(name=model.class_names[i], probability=float(probabilities[i])) for i in order]
