"""The live view over HTTP: who is answered, what is asked for, and what a page may do."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raysft.cli import ui
from raysft.cli.ui import TOKEN, make_server
from raysft.errors import UserError

SECRET = "0123456789abcdef0123"


class Pages:
    def home(self) -> str:
        return "<p>home</p>"

    def run(self, name: str) -> str | None:
        if name == "torn":
            raise ValueError("half a line")
        return f"<p>run {name}</p>" if name in ("one", "a b") else None

    def sweep(self, name: str) -> str | None:
        return None


Got = tuple[int, dict[str, str], str]


@contextmanager
def served(host: str = "127.0.0.1") -> Iterator[int]:
    with make_server(Pages(), host, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(5)


def get(port: int, path: str, method: str = "GET", **headers: str) -> Got:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    connection.close()
    return found


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.setattr(ui, "WRONG_S", 0.0)


def test_pages_are_found_by_their_names_alone() -> None:
    with served() as port:
        for path, status, text in (
            ("/", 200, "home"),
            ("/runs/one", 200, "run one"),
            ("/runs/a%20b", 200, "run a b"),
            ("/runs/..%2F..%2Fetc%2Fpasswd", 404, "no such page"),
            ("/runs/", 404, "no such page"),
            ("/sweeps/x", 404, "no such page"),
            ("/etc/passwd", 404, "no such page"),
            ("/runs/torn", 503, "try again"),
        ):
            found = get(port, path)
            assert (found[0], text in found[2]) == (status, True), path
        assert get(port, "/", "HEAD")[2] == ""
        assert get(port, "/", "POST")[0] == 501
        headers = get(port, "/")[1]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


def test_without_a_token_only_names_of_this_machine_are_answered_to() -> None:
    with served() as port:
        for name, status in (
            ("127.0.0.1", 200),
            ("localhost", 200),
            ("[::1]", 200),
            ("evil.example", 421),
            ("[", 421),
        ):
            assert get(port, "/", Host=f"{name}:{port}")[0] == status, name


def test_beyond_this_machine_a_token_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for token in ("", "short"):
        monkeypatch.setenv(TOKEN, token)
        with pytest.raises(UserError, match="needs a token") as caught:
            make_server(Pages(), "0.0.0.0", 0)
        assert "short" not in str(caught.value)
    monkeypatch.setenv(TOKEN, SECRET)
    with served("0.0.0.0") as port:
        assert get(port, "/")[0] == 401
        assert get(port, "/runs/one?token=wrong")[0] == 401
        assert get(port, "/", Authorization="Bearer wrong")[0] == 401
        assert get(port, "/", Authorization=f"Bearer {SECRET}")[0] == 200
        status, headers, _ = get(port, f"//evil.example/?token={SECRET}")
        assert (status, headers["location"]) == (303, "/evil.example"), "it leads nowhere else"
        status, headers, _ = get(port, f"/runs/one?token={SECRET}")
        assert (status, headers["location"]) == (303, "/runs/one")
        assert "HttpOnly" in headers["set-cookie"]
        assert get(port, "/runs/one", Cookie=headers["set-cookie"].partition(";")[0])[0] == 200


def test_a_port_that_is_taken_is_an_error_in_words() -> None:
    with served() as port, pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
        make_server(Pages(), "127.0.0.1", port)
