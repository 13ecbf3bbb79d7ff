"""cluster/hosts.yaml: `ray up` takes it, and its commands start nodes with a token, TLS and the address of ssh."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[3]
HOSTS = ROOT / "cluster" / "hosts.yaml"
ADDRESS = "10.0.0.12"


@pytest.fixture
def hosts() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(HOSTS.read_text())
    return config


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` makes of it, by Ray's own schema."""
    prepared: dict[str, Any] = prepare_config(config)
    validate_config(prepared)
    return prepared


def test_ray_up_takes_it_and_keeps_every_host(hosts: dict[str, Any]) -> None:
    (node,) = checked(hosts)["available_node_types"].values()
    assert node["min_workers"] == node["max_workers"] == len(hosts["provider"]["worker_ips"]) == 2


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("auth", "ssh_usr"), "me"),
        (("worker_start_commands",), ["ray start"]),
        (("idle_timeout_minutes",), "long"),
    ],
)
def test_a_mistake_is_refused_by_the_same_schema(hosts: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    inner = hosts
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(ValidationError):
        checked(hosts)


def test_what_is_sent_is_what_the_repository_makes_and_no_key_of_the_authority(hosts: dict[str, Any]) -> None:
    mounts = hosts["file_mounts"]
    assert (ROOT / mounts["~/raysft/constraints.txt"]).is_file()
    assert f"--wheel-dir {mounts['~/raysft/dist']}" in (ROOT / "Makefile").read_text()
    assert hosts["rsync_exclude"] == ["ca.key"]
    said = HOSTS.read_text()
    addresses = " ".join([hosts["provider"]["head_ip"], *hosts["provider"]["worker_ips"]])
    assert f"cluster/local/secure.sh {mounts['~/raysft/secure']} {addresses}" in said
    install = hosts["setup_commands"][-1]
    assert "--constraint" in install
    assert re.search(r"raysft-\*\.whl", install)


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_its_commands_start_a_node(hosts: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """As `ray up` sends them to a shell at the other end of ssh, with a program that stands for ray."""
    home, told = tmp_path / "home", tmp_path / "told"
    program = home / "raysft" / "venv" / "bin" / "ray"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/bash\n{ echo "$@"; env | grep ^RAY_; echo; } >> "$TOLD"\n')
    program.chmod(0o755)
    secure = [str(ROOT / "cluster" / "local" / "secure.sh"), str(home / "raysft" / "secure"), ADDRESS]
    subprocess.run(secure, check=True, capture_output=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = kept | {"HOME": str(home), "TOLD": str(told), "SSH_CONNECTION": f"10.0.0.1 50000 {ADDRESS} 22"}
    environment |= {"RAY_HEAD_IP": "10.0.0.10"} if kind == "worker" else {"RAY_CLOUD_INSTANCE_ID": "head"}
    for command in hosts[f"{kind}_start_ray_commands"]:
        subprocess.run(["bash", "-c", command], check=True, env=environment)
    stopped, started = told.read_text().strip().split("\n\n")
    assert stopped.startswith("stop\n")
    words, *variables = started.splitlines()
    assert {"RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN_PATH={home}/raysft/secure/token"} <= set(variables)
    assert {"RAY_USE_TLS=1", f"RAY_TLS_SERVER_KEY={home}/raysft/secure/node.key"} <= set(variables)
    if kind == "worker":
        assert words == f"start --address=10.0.0.10:6379 --node-ip-address={ADDRESS}"
    else:
        assert f"--head --node-ip-address={ADDRESS} --port=6379 --dashboard-host=127.0.0.1" in words
        assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in words  # Ray expands it
        assert "RAY_health_check_failure_threshold=4" in variables
