"""`raysft ui`: the live view of a storage path over HTTP. Owns the socket, the token and what an answer may be.

Read only: GET and HEAD of a few addresses. Without a token it listens on this machine alone, and answers to this
machine's names alone: a page elsewhere cannot be made to read it (DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from raysft.errors import UserError

logger = logging.getLogger(__name__)

TOKEN = "RAYSFT_UI_TOKEN"
"""Variable that the token is read from: arguments can be seen by every user of a machine."""
LEAST_TOKEN = 16
"""Characters."""
COOKIE = "raysft_ui"
REQUEST_S = 30.0
"""Longest time that a client may take to ask."""
WRONG_S = 0.5
"""Pause after a wrong token."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; "
    "form-action 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Pages(Protocol):
    """What is served (run/live.py). None: there is no such page."""

    def home(self) -> str: ...
    def run(self, name: str) -> str | None: ...
    def sweep(self, name: str) -> str | None: ...


def make_server(pages: Pages, host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; serve_forever() serves. port 0: any. Raises UserError."""
    token = os.environ.get(TOKEN, "")
    if (token and len(token) < LEAST_TOKEN) or not (token or _is_loopback(host)):
        raise UserError(
            f"the live view needs a token to listen on {host}",
            got=f"{TOKEN} of {len(token)} characters" if token else f"no {TOKEN}",
            expected=f"{LEAST_TOKEN} characters or more, or an address of this machine alone: 127.0.0.1",
            fix=f"export {TOKEN}=$(openssl rand -hex 24), or leave --host out and use `ssh -L`",
        )

    class Bound(_Handler):
        pass

    Bound.pages, Bound.token = pages, token
    try:
        return (_Server6 if ":" in host else _Server)((host.strip("[]"), port), Bound)
    except OSError as error:
        raise UserError(
            f"the live view cannot listen on {host}:{port}",
            got=str(error),
            expected="an address of this machine, and a port that is free",
            fix="choose another --port, or --port 0 for any",
        ) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    pages: Pages
    token: str
    timeout = REQUEST_S
    server_version, sys_version = "raysft", ""

    def do_GET(self) -> None:
        """A page, or why not."""
        asked = urlsplit(self.path)
        if not self.token and not _is_loopback(_hostname(self.headers.get("Host", ""))):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "this view answers to names of its own machine alone\n")
            return
        offered = parse_qs(asked.query).get("token", [""])[0]
        if offered and self._is_right(offered):  # out of the address bar, into a cookie
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            self._answer(HTTPStatus.SEE_OTHER, "", {"Location": "/" + asked.path.strip("/"), "Set-Cookie": cookie})
        elif self._is_allowed():
            self._page(unquote(asked.path))
        else:
            time.sleep(WRONG_S)
            text = f"a token is needed: open this address with ?token=..., the value of {TOKEN}\n"
            self._answer(HTTPStatus.UNAUTHORIZED, text, {"WWW-Authenticate": "Bearer"})

    def do_HEAD(self) -> None:
        """The headers of do_GET."""
        self.do_GET()

    def _page(self, path: str) -> None:
        kind, _, name = path.strip("/").partition("/")
        show: dict[str, Callable[[], str | None]] = {
            "": self.pages.home,
            "runs": lambda: self.pages.run(name),
            "sweeps": lambda: self.pages.sweep(name),
        }
        try:
            html = show[kind]() if kind in show and bool(kind) == bool(name) else None
        except Exception as error:  # one page that cannot be made ends no server
            logger.warning("%s cannot be shown: %s: %s", kind or "the page", type(error).__name__, error)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "this cannot be read just now; try again\n")
            return
        if html is None:
            self._answer(HTTPStatus.NOT_FOUND, "there is no such page, or its records cannot be read yet\n")
            return
        self._answer(HTTPStatus.OK, html, {"Content-Type": "text/html; charset=utf-8"})

    def _is_allowed(self) -> bool:
        if not self.token:
            return True
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return self._is_right(cookie.value if cookie else "") or self._is_right(bearer)

    def _is_right(self, offered: str) -> bool:
        return bool(self.token) and hmac.compare_digest(offered.encode(), self.token.encode())

    def _answer(self, status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        kind = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
        for name, value in {**_HEADERS, **kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a request's line may hold the token."""


def _hostname(asked: str) -> str:
    """A `Host` header without its port; empty: it is none."""
    try:
        return urlsplit(f"//{asked}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    """Does a name lead to this machine alone?"""
    bare = host.strip("[]")
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def serve(pages: Pages, host: str, port: int) -> None:
    """Serve until Ctrl-C. Raises UserError."""
    with make_server(pages, host, port) as server:
        at = server.server_address[1]
        shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
        named = f"[{shown}]" if ":" in shown else shown
        logger.info("live view    http://%s:%d/ (read only; Ctrl-C ends it)", named, at)
        if os.environ.get(TOKEN):
            logger.info("             open it with ?token=$%s; plain http is for trusted networks", TOKEN)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            logger.info("ended")
