"""A job server in this process: Ray's Jobs REST API over real HTTP and websockets, with jobs that tests move by hand.

Shares no code with raysft. Written after Ray 2.60's `dashboard/modules/job/job_head.py`.
"""

from __future__ import annotations

import asyncio
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from aiohttp import web

RUNNING_S = 1_795_000_000.0


@dataclass
class FakeJob:
    """One job; tests write its fields."""

    id: str
    status: str = "RUNNING"
    log: str = ""
    exit_code: int | None = None
    message: str = "Job is currently running."
    metadata: dict[str, str] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    started_s: float = RUNNING_S

    def end(self, status: str, exit_code: int | None, message: str = "") -> None:
        """It has ended."""
        self.message, self.exit_code, self.status = message, exit_code, status

    def as_json(self) -> dict[str, Any]:
        """As GET gives it."""
        return {
            "type": "SUBMISSION",
            "submission_id": self.id,
            "status": self.status,
            "entrypoint": self.request.get("entrypoint", "sleep"),
            "message": self.message,
            "metadata": self.metadata,
            "driver_exit_code": self.exit_code,
            "start_time": int(self.started_s * 1000),
            "end_time": None if self.status in ("PENDING", "RUNNING") else int((self.started_s + 63) * 1000),
        }


@dataclass
class FakeServer:
    """What it has, what it does wrong, and what it was asked."""

    jobs: dict[str, FakeJob] = field(default_factory=dict)
    token: str | None = None
    ray_version: str = version("ray")
    is_away: bool = False
    """It closes each connection without an answer."""
    cut_streams_after: int | None = None
    """Characters of a log after which a stream ends as if nothing were wrong."""
    refuses_streams: bool = False
    freezes_streams: bool = False
    """A stream sends what there is and then nothing, for ever."""
    loses_answers: bool = False
    """A job is taken, but whoever sent it does not hear of that."""
    replies: dict[str, web.Response] = field(default_factory=dict)
    """{path: what is answered there instead}."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, authorization)."""
    packages: dict[str, bytes] = field(default_factory=dict)
    streams: int = 0
    address: str = ""

    def add(self, identity: str, **fields: Any) -> FakeJob:
        """A job that is there already."""
        self.jobs[identity] = FakeJob(identity, **fields)
        return self.jobs[identity]

    def files(self, name: str) -> list[str]:
        """Names in the package whose name ends so: `working_dir` or `py_modules`."""
        (uri,) = [uri for uri in self.packages if uri == name]
        return zipfile.ZipFile(io.BytesIO(self.packages[uri])).namelist()

    @web.middleware
    async def _first(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("Authorization")
        self.asked.append((request.method, request.path, given))
        if self.is_away:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if request.path in self.replies:
            reply = self.replies[request.path]
            return web.Response(status=reply.status, text=reply.text, headers=reply.headers)
        if self.token is not None:
            if not given:
                return web.Response(status=401, text="Unauthorized: Missing authentication token")
            if given != f"Bearer {self.token}":
                return web.Response(status=403, text="Forbidden: Invalid authentication token")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, request: web.Request) -> web.Response:
        told = {"version": "4", "ray_version": self.ray_version, "ray_commit": "c", "session_name": "s"}
        return web.json_response(told)

    async def _list(self, request: web.Request) -> web.Response:
        driver = {"type": "DRIVER", "job_id": "01000000", "status": "RUNNING", "entrypoint": ""}
        return web.json_response([*(job.as_json() for job in self.jobs.values()), driver])

    async def _submit(self, request: web.Request) -> web.Response:
        asked = await request.json()
        identity = asked["submission_id"]
        if identity in self.jobs:
            return web.Response(
                status=500, text=f"Traceback\nValueError: Job {identity} already exists. Use another."
            )
        self.jobs[identity] = FakeJob(identity, "PENDING", metadata=asked["metadata"], request=asked)
        if self.loses_answers:
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"job_id": identity, "submission_id": identity})

    def _found(self, request: web.Request) -> FakeJob:
        identity = request.match_info["id"]
        if identity not in self.jobs:
            raise web.HTTPNotFound(text=f"Job {identity} does not exist")
        return self.jobs[identity]

    async def _job(self, request: web.Request) -> web.Response:
        return web.json_response(self._found(request).as_json())

    async def _log(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": self._found(request).log})

    async def _stop(self, request: web.Request) -> web.Response:
        job = self._found(request)
        was_running = job.status in ("PENDING", "RUNNING")
        if was_running:
            job.end("STOPPED", None, "Job was intentionally stopped.")
        return web.json_response({"stopped": was_running})

    async def _tail(self, request: web.Request) -> web.StreamResponse:
        if self.refuses_streams:
            return web.Response(status=502)
        self.streams += 1
        job, sent = self._found(request), 0
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        limit = self.cut_streams_after
        while limit is None or sent < limit:
            new = job.log[sent:limit]
            if new:
                await socket.send_str(new)
                sent += len(new)
            while self.freezes_streams:
                await asyncio.sleep(0.02)
            if job.status not in ("PENDING", "RUNNING"):
                break
            await asyncio.sleep(0.02)
        return socket

    async def _package(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if request.method == "PUT":
            self.packages[name] = await request.read()
            return web.Response()
        return web.Response(status=200 if name in self.packages else 404)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[self._first], client_max_size=1 << 30)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/", self._list)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{id}", self._job)
        app.router.add_get("/api/jobs/{id}/logs", self._log)
        app.router.add_get("/api/jobs/{id}/logs/tail", self._tail)
        app.router.add_post("/api/jobs/{id}/stop", self._stop)
        app.router.add_route("*", "/api/packages/{protocol}/{name}", self._package)
        return app


@contextmanager
def job_server() -> Iterator[FakeServer]:
    """It serves on a port of its own as long as the block lasts."""
    fake, loop, ready = FakeServer(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        runner = web.AppRunner(fake.app(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        fake.address = f"http://{host}:{port}"
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    task = loop.create_task(serve())

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(5)
