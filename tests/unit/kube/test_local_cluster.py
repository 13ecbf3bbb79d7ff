"""cluster/local: a token and certificates that fit, nodes that leave nothing. A program that waits stands for ray."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_material import K8S, objects_of

LOCAL = Path(__file__).parents[3] / "cluster" / "local"
RAY = """#!/usr/bin/env python3
import os, socket, subprocess, sys, time
port = next((int(word.partition("=")[2]) for word in sys.argv if word.startswith("--port=")), None)
listener = socket.create_server(("127.0.0.1", port)) if port else None
child = subprocess.Popen(["sleep", "600"])
with open(os.environ["TOLD"], "a") as file:
    said = [os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_USE_TLS")]
    file.write(f"{os.getpid()} {child.pid} {said[0]} {said[1]} {sys.argv[1:]}\\n")
print("Ray runtime started.", flush=True)
time.sleep(600)
"""


def openssl(*words: str | Path) -> str:
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


def test_a_token_and_certificates(tmp_path: Path) -> None:
    place = tmp_path / "secure"

    def secure() -> dict[str, bytes]:
        subprocess.run([LOCAL / "secure.sh", place, "10.78.0.1", "10.78.0.11"], check=True, capture_output=True)
        return {file.name: file.read_bytes() for file in place.iterdir()}

    first = secure()
    assert re.fullmatch(rb"[0-9a-f]{64}\n", first["token"])
    assert all(file.stat().st_mode & 0o077 == 0 for file in place.iterdir()), "for nobody else's eyes"
    assert "OK" in openssl("verify", "-CAfile", place / "ca.crt", place / "node.crt")
    names = openssl("x509", "-in", place / "node.crt", "-noout", "-ext", "subjectAltName")
    for address in ("10.78.0.1", "10.78.0.11", "127.0.0.1"):
        assert f"IP Address:{address}" in names
    assert secure() == first, "what is there is kept"
    copy = Path(shutil.copytree(place, tmp_path / "a copy"))
    told = sourced(copy / "env")
    for variable in ("RAY_AUTH_MODE=token", "RAY_USE_TLS=1", f"RAY_TLS_CA_CERT={copy}/ca.crt"):
        assert variable in told


def sourced(file: Path) -> list[str]:
    """NAME=VALUE of what a file exports to a shell elsewhere."""
    shell = subprocess.run(
        ["bash", "-c", f"source '{file}' && env"], check=True, capture_output=True, text=True, cwd="/"
    )
    return shell.stdout.splitlines()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """An environment for nodes.sh without root, and what `ray` was told."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ray").write_text(RAY)
    (tmp_path / "bin" / "ray").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "RAYSFT_PLAIN": "1",
        "RAYSFT_NODES": str(tmp_path / "nodes"),
        "RAYSFT_PORT": str(port),
        "TOLD": str(tmp_path / "told"),
    }
    yield environment, tmp_path / "told"
    run(environment, "down")


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [LOCAL / "nodes.sh", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def started(told: Path, number: int) -> list[list[str]]:
    """[pid, its child, mode, TLS, arguments] of so many starts."""
    deadline = time.monotonic() + 30
    while not told.exists() or len(told.read_text().splitlines()) < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [line.split(maxsplit=4) for line in told.read_text().splitlines()]


def is_there(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_nodes_come_and_leave_nothing(nodes: tuple[dict[str, str], Path]) -> None:
    environment, told = nodes
    up = run(environment, "up", "2")
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("source ")
    assert "processes of this machine" in up.stderr
    found = started(told, 3)
    assert [("--head" in arguments) for *_, arguments in found].count(True) == 1
    assert {tuple(one[2:4]) for one in found} == {("token", "1")}
    again = run(environment, "up", "1")
    assert (again.returncode, "up already" in again.stderr) == (1, True)
    state = Path(environment["RAYSFT_NODES"])
    assert f"RAY_ADDRESS=127.0.0.1:{environment['RAYSFT_PORT']}" in sourced(state / "env")
    assert "RAY_USE_TLS=1" in sourced(state / "env")
    first = (state / "n1.pid").read_text().strip()
    children = next(one[:2] for one in found if one[0] == first)
    run(environment, "kill", "n1")
    assert not any(is_there(pid) for pid in children), "with all that it has started"
    run(environment, "start", "n1")
    everything = [pid for one in started(told, 4) for pid in one[:2]]
    assert sum(is_there(pid) for pid in everything) == 6
    run(environment, "down")
    assert not any(is_there(pid) for pid in everything)
    assert not state.exists()


def test_a_lost_node_is_noticed_within_ten_seconds_everywhere() -> None:
    """In pods, in clusters that are there, and in nodes of this machine by the same settings."""
    setting = re.compile(r"RAY_health_check_(\w+?)(?:=|, value: .?)(\d+)")
    places = [*(K8S / "overlays").glob("*/cluster-of-*.yaml"), LOCAL / "nodes.sh", LOCAL.parent / "hosts.yaml"]
    found = [dict(setting.findall(place.read_text())) for place in places]
    head = objects_of("cluster.yaml", "train")[-1]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    variables = {one["name"]: one.get("value") for one in head["containers"][0]["env"]}
    found.append({name.partition("check_")[2]: value for name, value in variables.items() if "health_check" in name})
    assert len(found) > 4
    assert all(one == found[0] for one in found), found
    each_ms = int(found[0]["period_ms"]) + int(found[0]["timeout_ms"])
    assert int(found[0]["failure_threshold"]) * each_ms < 10_000


def test_what_it_can_do_is_told(nodes: tuple[dict[str, str], Path]) -> None:
    asked = run(nodes[0])
    assert asked.returncode == 2
    script = (LOCAL / "nodes.sh").read_text()
    for command in re.findall(r"^    ([a-z-]+)\) ", script, re.MULTILINE):
        assert command == "head" or command in asked.stdout, command
