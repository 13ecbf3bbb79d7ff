"""A real Prometheus beside a live run: it gets every number that the dashboard and the alerts name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import overrides, write_material
from ray_head import free_port, ray_head

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "k8s" / "overlays" / "monitoring"
RULES: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
PANELS: list[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
QUERIES = [target["expr"].replace("$run", "tiny") for panel in PANELS for target in panel["targets"]]
PROMETHEUS = shutil.which("prometheus")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.full,
    pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus (Debian's package of that name) is not installed"),
]


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Callable[[str], Any]]:
    """One that scrapes the target every second and knows the alerts: what its API answers to a path."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    scrape = {"job_name": "ray", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    config = {
        "global": {"evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [scrape],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    here = f"127.0.0.1:{free_port()}"
    words = [f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w") as said:
        process = subprocess.Popen(
            [str(PROMETHEUS), *words, f"--web.listen-address={here}"], stdout=said, stderr=said
        )

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://{here}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=20)


def found(ask: Callable[[str], Any], query: str) -> list[dict[str, Any]]:
    """The series that a query gives now."""
    try:
        series: list[dict[str, Any]] = ask(f"query?query={urllib.parse.quote(query)}")["result"]
    except OSError:  # not up yet
        return []
    return series


def test_a_live_run_is_scraped(tmp_path: Path) -> None:
    names = sorted(set(re.findall(r"ray_raysft_[a-z_]+", yaml.safe_dump(RULES) + "".join(QUERIES))))
    assert len(names) > 10
    recipe, exporter = write_material(tmp_path / "shared"), free_port()
    words = ["train.max_steps=1000000", "evaluate.every_steps=50", "checkpoint.every_steps=50"]
    with ray_head(exporter, RAY_metrics_report_interval_ms="1000") as head:
        command = [sys.executable, "-m", "raysft.cli", "submit", str(recipe), "--address", head.address, "--detach"]
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "platform"), "RAY_AUTH_TOKEN": head.token}
        subprocess.run([*command, *overrides(*words)], check=True, env=environment, timeout=120)
        with prometheus(tmp_path, f"127.0.0.1:{exporter}") as ask:
            wanted = [*(f'{name}{{run="tiny"}}' for name in names), *QUERIES]
            deadline = time.monotonic() + 240
            while missing := [query for query in wanted if not found(ask, query)]:
                assert time.monotonic() < deadline, f"Prometheus has nothing for {missing}"
                time.sleep(1)
            (up,) = found(ask, "up")
            assert up["value"][1] == "1"
            first, second = found(ask, QUERIES[0])[0], found(ask, 'ray_raysft_time_seconds{run="tiny"}')
            assert 0 < float(first["value"][1]) < 20, "a loss"
            assert {"compute", "checkpoint"} <= {series["metric"]["class"] for series in second}
            rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
            assert {rule["name"] for rule in rules} == {rule["alert"] for rule in RULES["groups"][0]["rules"]}
            assert {rule["health"] for rule in rules} == {"ok"}
            assert {rule["state"] for rule in rules} == {"inactive"}, "nothing is wrong with this run"
