"""Address, token and versions are checked before anything is sent, and each refusal says what to do."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from aiohttp import web
from job_server import FakeServer

from raysft.errors import ClusterError, UserError
from raysft.runtime import job_client
from raysft.submit import reach
from raysft.submit.reach import check_version, checked_address, connect, find_token, named_address

TOKEN = "a" * 64


def test_an_open_server_gets_no_token_though_there_is_one(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert connect(fake.address).jobs() == []
    assert {given for _, _, given in fake.asked} <= {None, ""}


def test_no_token_is_told_as_401(fake: FakeServer) -> None:
    fake.token = TOKEN
    with pytest.raises(ClusterError, match="does not take the token") as caught:
        connect(fake.address)
    assert caught.value.got.startswith("401")
    assert "RAY_AUTH_TOKEN" in caught.value.fix


def test_a_wrong_token_is_told_as_403_and_not_shown(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.token = TOKEN
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    with pytest.raises(ClusterError) as caught:
        connect(fake.address)
    assert caught.value.got.startswith("403")
    assert "bbb" not in str(caught.value)


def test_a_token_is_enough_whatever_the_mode_says(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client alone sends none without RAY_AUTH_MODE=token, and is refused with 401."""
    fake.token = TOKEN
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    fake.add("a-1")
    assert [job.id for job in connect(fake.address).jobs()] == ["a-1"]


def test_the_address_that_is_named_counts_not_rays_variable(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    server = connect(fake.address)
    assert server.jobs() == []
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", fake.address)
    assert connect(None).address == fake.address


def test_what_stays_on_this_machine_meets_no_proxy(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake.add("a-1")
    assert [job.id for job in connect(fake.address).jobs()] == ["a-1"]
    with pytest.raises(job_client.AwayError, match="does not answer"):
        connect("http://192.0.2.1:8265")


def test_a_token_does_not_travel_in_the_clear(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own name is another machine, as far as anybody can tell."""
    fake.token = TOKEN
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setattr(reach, "is_private_way", lambda address: False)
    with pytest.raises(ClusterError, match="everybody on the way") as caught:
        connect(fake.address)
    assert "--insecure-http" in caught.value.fix
    assert all(given is None for _, _, given in fake.asked)
    assert connect(fake.address, insecure_http=True).jobs() == []


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("", "--address"),
        ("auto", "http://"),
        ("localhost:8265", "http://"),
        ("10.0.0.5:6379", "http://"),
        ("ray://head:10001", "http://"),
        ("http://head:6379", "8265"),
        ("http://me:secret@head:8265", "login"),
        ("http://head:8265/?token=abc", "nothing behind"),
        ("http://:8265", "http://"),
        ("http://head:99999", "another form"),
        ("http://[::1", "another form"),
    ],
)
def test_what_is_no_address(address: str, told: str) -> None:
    with pytest.raises(ClusterError, match="no address") as caught:
        checked_address(address)
    assert told in caught.value.expected
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, ""),
        ({"RAY_ADDRESS": "10.0.0.5:6379"}, ""),
        ({"RAY_ADDRESS": "http://a:8265"}, "http://a:8265"),
        ({"RAY_ADDRESS": "http://a:8265", "RAY_API_SERVER_ADDRESS": "https://b"}, "https://b"),
    ],
)
def test_what_rays_variables_name(variables: dict[str, str], address: str) -> None:
    assert named_address(variables) == address


def test_an_address_is_used_as_it_is_meant() -> None:
    assert checked_address(" https://host/ray/ ") == "https://host/ray"


@pytest.mark.parametrize("theirs", ["2.59.1", "2.61.0", "3.0.0", "3.60.0"])
def test_another_ray_is_refused(theirs: str, fake: FakeServer) -> None:
    fake.ray_version = theirs
    with pytest.raises(ClusterError, match="another Ray") as caught:
        connect(fake.address)
    assert theirs in caught.value.got
    assert "image" in caught.value.fix


def test_a_patch_of_the_same_ray_is_not() -> None:
    ours = reach.version("ray").split(".")
    check_version("http://a", f"{ours[0]}.{ours[1]}.99")


def test_an_address_where_nobody_is_ends_soon() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(job_client.AwayError, match="does not answer"):
        connect(f"http://127.0.0.1:{port}")


def test_one_that_takes_connections_and_says_nothing_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "ANSWER_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(job_client.AwayError, match="does not answer"):
            connect(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (web.Response(text="<html>hello</html>", content_type="text/html"), "no job server"),
        (web.Response(text='["json"]', content_type="application/json"), "no job server"),
        (web.Response(status=404, text="nothing"), "no job server"),
        (web.Response(status=500, text="broken"), "no job server"),
        (web.Response(status=302, headers={"Location": "https://login.example.com/?state=abc"}), "another address"),
    ],
)
def test_what_answers_and_is_no_job_server(fake: FakeServer, reply: web.Response, told: str) -> None:
    fake.replies["/api/version"] = reply
    with pytest.raises(ClusterError, match=told) as caught:
        connect(fake.address)
    assert "abc" not in str(caught.value)


def test_where_a_token_is_looked_for(tmp_path: Path) -> None:
    assert find_token({}, tmp_path) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-home\n")
    (tmp_path / "file").write_text("of-file\n")
    assert find_token({}, tmp_path) == "of-home"
    named = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file")}
    assert find_token(named, tmp_path) == "of-file"
    assert find_token({**named, "RAY_AUTH_TOKEN": " word "}, tmp_path) == "word"


@pytest.mark.parametrize("text", ["two words", "a\nb", "schl\u00fcssel", "a\x00b"])
def test_what_is_no_token(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="no token") as caught:
        find_token({"RAY_AUTH_TOKEN": text}, tmp_path)
    assert text not in str(caught.value)


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the token file"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, tmp_path)
