"""The page that raters see, over HTTP: one item at a time. Owns what a browser may ask and is told.

A rater is known by a token, which moves from the address into a cookie. No answer of this server names a system, nor
tells a hidden gold item from another. Whoever opens the page has the seat: a window that was opened before is told so
at its next save.
"""

from __future__ import annotations

import hmac
import logging
import time
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.base import RequestResponseEndpoint

from raysft.errors import RaysftError
from raysft.human.store import Rating, SeatTakenError, Store
from raysft.human.study import Item, Study, is_right

logger = logging.getLogger(__name__)

COOKIE = "raysft_rater"
LONGEST = 65_536
"""Bytes of a request."""
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_KINDS = {"rate.js": "text/javascript", "rate.css": "text/css"}


class Said(BaseModel):
    """What a rater says of an item."""

    model_config = ConfigDict(extra="forbid")

    item: int
    value: Any
    seat: str = Field(max_length=64)
    seconds: float = Field(ge=0, le=1e6)


def make_app(store: Store, language: str = "en") -> FastAPI:
    """The application. language: `en` or `zh`, with which a page begins."""
    app = FastAPI(title="raysft", docs_url=None, redoc_url=None, openapi_url=None)
    study, tokens = store.study(), store.tokens()
    _guard(app)
    _serve_page(app, tokens, language)

    def rater_of(request: Request) -> str:
        return _known(tokens, request.cookies.get(COOKIE, "")) or _nobody()

    @app.post("/api/seat")
    def sit(request: Request) -> dict[str, str]:
        return {"seat": store.sit(rater_of(request))}

    @app.get("/api/task")
    def task(request: Request, item: int | None = None) -> dict[str, Any]:
        rater = rater_of(request)
        return _task(study, rater, {one.item: one.value for one in store.ratings(study, rater)}, item)

    @app.post("/api/ratings")
    def save(request: Request, said: Said) -> dict[str, Any]:
        return {"feedback": _saved(store, study, rater_of(request), said)}

    return app


def _guard(app: FastAPI) -> None:
    """Bounds what is asked, and says how answers may be used."""

    @app.middleware("http")
    async def guarded(request: Request, call_next: RequestResponseEndpoint) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LONGEST or "transfer-encoding" in request.headers:
            return PlainTextResponse("too long\n", status_code=413)
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(RaysftError)
    def away(request: Request, error: RaysftError) -> Response:
        """The database cannot be reached just now: the page keeps what was chosen and offers to try again."""
        logger.warning("%s", error)
        return PlainTextResponse("it cannot be saved or read just now\n", status_code=503)


def _serve_page(app: FastAPI, tokens: dict[str, str], language: str) -> None:
    """The page and its parts."""

    @app.get("/")
    def page(request: Request, token: str = "") -> Response:
        if token and _known(tokens, token):
            moved = RedirectResponse("/", status_code=303)
            moved.set_cookie(COOKIE, token, httponly=True, samesite="strict", max_age=30 * 24 * 3600)
            return moved
        if not _known(tokens, request.cookies.get(COOKIE, "")):
            return PlainTextResponse("open the link that you were given; it ends in ?token=...\n", status_code=401)
        return Response(_file("rate.html").replace("LANGUAGE", language), media_type="text/html; charset=utf-8")

    @app.get("/page/{name}")
    def part(name: str) -> Response:
        if name not in _KINDS:
            raise HTTPException(404, "there is no such file")
        return Response(_file(name), media_type=f"{_KINDS[name]}; charset=utf-8")


def _saved(store: Store, study: Study, rater: str, said: Said) -> dict[str, Any] | None:
    """Keeps a rating; what the rater is told of it, in the training."""
    if not 0 <= said.item < len(study.items):
        raise HTTPException(404, "there is no such item")
    try:
        value = study.value_of(rater, said.item, said.value)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    item = study.items[said.item]
    rating = Rating(rater, said.item, value, said.seconds, time.time())
    try:
        kept = store.save(rating, said.seat, may_replace=not item.is_training)
    except SeatTakenError as error:
        raise HTTPException(409, "this page was opened in another window since") from error
    return _feedback(study, rater, item, kept.value) if item.is_training else None


def _task(study: Study, rater: str, done: dict[int, Any], asked: int | None) -> dict[str, Any]:
    """What the page shows: the item that was asked for, or the first that is not rated; and how far the rater is."""
    order = study.order(rater)
    left = [number for number in order if number not in done]
    number = asked if asked in done else left[0] if left else None
    place = order.index(number) if number is not None else len(order)
    before = [one for one in order[:place] if one in done and not study.items[one].is_training]
    told: dict[str, Any] = {
        "mode": study.mode,
        "criteria": study.criteria,
        "done": len(done),
        "total": len(order),
        "previous": before[-1] if before else None,
        "item": None,
    }
    if number is not None:
        item = study.items[number]
        told["item"] = {
            "number": number,
            "is_training": item.is_training,
            "prompt": item.prompt,
            "answers": study.shown(rater, number),
            "value": study.said_of(rater, number, done[number]) if number in done else None,
        }
    return told


def _feedback(study: Study, rater: str, item: Item, value: Any) -> dict[str, Any]:
    return {
        "right": is_right(item, value),
        "wanted": study.said_of(rater, item.number, item.gold),
        "why": item.why,
    }


def _known(tokens: dict[str, str], offered: str) -> str:
    """The rater of a token, compared in constant time; empty: nobody."""
    found = ""
    for name, token in tokens.items():
        found = name if hmac.compare_digest(token.encode(), offered.encode()) else found
    return found


def _nobody() -> str:
    raise HTTPException(401, "open the link that you were given")


def _file(name: str) -> str:
    return files("raysft.human").joinpath("page", name).read_text(encoding="utf-8")
