"""A stand-in for an OpenAI-compatible server: replies by a script, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[list[dict[str, str]], int], "tuple[int, str | bytes, dict[str, str]] | str"]
"""(messages, number of the request) -> what the model says, or (status, body, headers)."""


@dataclass
class JudgeServer:
    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def judge_server(script: Script) -> Iterator[JudgeServer]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(server.asked)
                server.asked.append({"path": self.path, **body})
                server.headers.append(dict(self.headers))
            said = script(body["messages"], number)
            if isinstance(said, str):
                usage = {"prompt_tokens": 100, "completion_tokens": 10}
                said = (200, json.dumps({"choices": [{"message": {"content": said}}], "usage": usage}), {})
            status, text, headers = said
            data = text if isinstance(text, bytes) else text.encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = JudgeServer(f"http://127.0.0.1:{listener.server_address[1]}/v1")
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
