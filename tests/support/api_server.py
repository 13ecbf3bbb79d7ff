"""A small Kubernetes API server in this process: objects by path, server-side apply, lists, deletion.

Shares no code with raysft. What it knows of fields is what a test teaches it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

KINDS = {"ConfigMap": "configmaps", "RayJob": "rayjobs"}


@dataclass
class FakeApi:
    """What it has, what it does wrong, and what it was asked."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By path."""
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """{pods, events, workloads}; one that is not here is 404."""
    statuses: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """{name of a RayJob: its statuses, one for each time that it is asked for; the last one stays}."""
    refuses: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None
    """(method, path) -> status and message, where it refuses."""
    has_kuberay: bool = True
    is_away: bool = False
    stays_s: int = 0
    """How often an object that was deleted is still seen."""
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """(method, path, query)."""
    uids: int = 0
    url: str = ""

    def named(self, kind: str) -> dict[str, dict[str, Any]]:
        """{name: object}."""
        return {path.rpartition("/")[2]: one for path, one in self.objects.items() if one["kind"] == kind}

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, kind: str) -> tuple[int, Any]:
        """HTTP status and JSON."""
        self.asked.append((method, path, query))
        if (refused := self.refuses(method, path)) is not None:
            return refused[0], {"kind": "Status", "message": refused[1], "code": refused[0]}
        plural = path.split("/")[-1]
        if method == "GET" and plural in ("pods", "events", "workloads"):
            return (200, {"items": self.lists[plural]}) if plural in self.lists else (404, {"message": "not found"})
        if method == "GET" and plural == "rayjobs" and self.has_kuberay:
            found = [one for at, one in self.objects.items() if at.rpartition("/")[0] == path]
            key, _, value = query.get("labelSelector", "").partition("=")
            mine = [one for one in found if not key or one["metadata"].get("labels", {}).get(key) == value]
            for one in mine:
                one["status"] = self.statuses.get(one["metadata"]["name"], [{}])[0]
            bare = [{name: part for name, part in one.items() if name not in ("kind", "apiVersion")} for one in mine]
            return 200, {"items": bare}
        if "/rayjobs" in path and not self.has_kuberay:
            return 404, "404 page not found"
        if method == "PATCH":
            return self._apply(path, query, body, kind)
        if path not in self.objects:
            return 404, {"kind": "Status", "message": f"{path} not found", "code": 404}
        found = self.objects[path]
        if method == "DELETE":
            found["metadata"]["deletionTimestamp"] = "now"
            if self.stays_s == 0:
                del self.objects[path]
            return 200, found
        if "deletionTimestamp" in found["metadata"]:
            self.stays_s -= 1
            if self.stays_s <= 0:
                del self.objects[path]
        name = found["metadata"]["name"]
        if statuses := self.statuses.get(name):
            found["status"] = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        return 200, found

    def _apply(self, path: str, query: dict[str, str], body: Any, kind: str) -> tuple[int, Any]:
        if kind != "application/apply-patch+yaml" or not query.get("fieldManager"):
            return 415, {"message": f"no apply: {kind} {query}"}
        if path.rpartition("/")[2] != body["metadata"]["name"] or KINDS[body["kind"]] not in path:
            return 400, {"message": "the name in the path is another"}
        self.uids += 1
        body["metadata"]["uid"] = f"uid-{self.uids}"
        self.objects[path] = body
        return 201, body


@contextmanager
def api_server(folder: Path) -> Iterator[FakeApi]:
    """It serves as long as the block lasts; `folder/kubeconfig` leads to it."""
    fake = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", 1 << 16, True

        def _serve(self) -> None:
            if fake.is_away:
                self.close_connection = True
                self.connection.close()
                return
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if self.headers.get("Authorization") != "Bearer of-the-user":
                status, found = 401, {"message": "Unauthorized", "code": 401}
            else:
                kind = self.headers.get("Content-Type", "")
                status, found = fake.answer(self.command, parts.path, query, json.loads(raw) if raw else None, kind)
            text = found.encode() if isinstance(found, str) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(found, str) else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PATCH = do_DELETE = _serve  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
        "clusters": [{"name": "fake", "cluster": {"server": fake.url}}],
        "users": [{"name": "me", "user": {"token": "of-the-user"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
