"""The page as a web application: static files from the package, requests as JSON, answers as a stream of events.

What comes from outside is never a path, never code and never larger than a limit; the run's folder is not written to.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from markovae.errors import UserError
from markovae.strict_json import parse_object
from markovae.web.desk import BusyError, Desk, Event
from markovae.web.studio import MAX_UPLOAD, Studio

MAX_BODY = 3 * MAX_UPLOAD  # two images in base64, and some words
BODY_SECONDS = 20.0
RETRY_SECONDS = 5
STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/lecture.js": ("lecture.js", "text/javascript; charset=utf-8"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(studio: Studio, hosts: frozenset[str], token: str | None = None) -> ASGIApp:
    """The application.

    Args:
        studio: what can be asked for.
        hosts: what a browser may call this server, HOST:PORT.
        token: what every request for work must carry; None where only this machine reaches the server.
    """
    desk = Desk()
    routes = [
        *(Route(path, _static(*entry), methods=["GET"]) for path, entry in STATIC.items()),
        Route("/api/about", _about(studio), methods=["GET"]),
        *(
            Route(f"/api/{name}", _work(desk, job), methods=["POST"])
            for name, job in (("sample", studio.sample), ("measure", studio.measure), ("edit", studio.edit))
        ),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        desk.close()

    return Guard(Starlette(routes=routes, lifespan=lifespan), hosts, token)


class Guard:
    """Refuses what no page of this server sends, before anything else reads it; adds the headers of every answer.

    A page of another site that reaches this server through the visitor's browser names another origin, or, after a
    DNS answer was changed, another host.
    """

    def __init__(self, inner: ASGIApp, hosts: frozenset[str], token: str | None) -> None:
        self.inner, self.hosts, self.token = inner, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.lower().encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self.inner)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("host", "") not in self.hosts:
            return _words(421, "this address is not the server's: open the one that `markovae serve` printed")
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] not in self.hosts:
            return _words(403, "another site asks: open the page itself")
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return _words(403, "another site asks: open the page itself")
        if self.token is not None and request.url.path.startswith("/api/"):
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                return _words(401, "the token is missing: open the whole address that `markovae serve` printed")
        return None


def _static(name: str, kind: str) -> Callable[[Request], Any]:
    content = (files("markovae.web") / "static" / name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _about(studio: Studio) -> Callable[[Request], Any]:
    about = studio.about()

    async def answer(request: Request) -> Response:
        return JSONResponse(about)

    return answer


def _work(desk: Desk, job: Callable[[Mapping[str, Any]], Iterator[Event]]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _words(415, "a request is JSON")
        try:
            asked = await asyncio.wait_for(_json(request), BODY_SECONDS)
        except TimeoutError:
            return _words(408, f"the request took more than {BODY_SECONDS:g} seconds to arrive")
        except ClientDisconnect:
            return Response(status_code=400)
        except UserError as error:
            return _words(413 if "bytes" in str(error) else 400, str(error))
        try:
            events = await desk.stream(lambda: job(asked))
        except BusyError:
            busy = _words(429, "many visitors are waiting: try again in a few seconds")
            busy.headers["Retry-After"] = str(RETRY_SECONDS)
            return busy
        return StreamingResponse(_lines(events), media_type="text/event-stream")

    return answer


async def _json(request: Request) -> Mapping[str, Any]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise UserError(f"a request of more than {MAX_BODY:,} bytes: choose a smaller image")
    try:
        return parse_object(bytes(body))
    except ValueError as error:
        raise UserError(f"the request {error}") from None


async def _lines(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        yield b"data: " + json.dumps(event, allow_nan=False).encode() + b"\n\n"


def _words(status: int, message: str) -> JSONResponse:
    return JSONResponse({"kind": "error", "message": message}, status_code=status)
