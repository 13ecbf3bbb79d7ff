"""Alerts and dashboard: they read numbers that runs tell, and each alert fires when it should and only then."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from raysft.runtime.gauges import GAUGES, TIMES

FOLDER = Path(__file__).parents[3] / "k8s" / "overlays" / "monitoring"
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"]
PROMTOOL = shutil.which("promtool")


def names_in(text: str) -> set[str]:
    return set(re.findall(r"ray_raysft_([a-z_]+)", text))


def test_alerts_and_panels_read_what_runs_tell() -> None:
    alerts = names_in(json.dumps(RULES))
    panels = names_in((FOLDER / "dashboard.json").read_text())
    assert alerts <= {*GAUGES, TIMES}
    assert panels == {*GAUGES, TIMES}, "every number has a panel"


def test_a_panel_asks_for_the_runs_that_are_chosen() -> None:
    board = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            assert target["expr"].count('{run=~"$run"}') == len(re.findall("ray_raysft_", target["expr"]))


def series(name: str, values: str, more: str = "") -> dict[str, str]:
    return {"series": f'ray_raysft_{name}{{run="r"{more}}}', "values": values}


COMPUTE, SAVES = ',class="compute"', ',class="checkpoint"'
"""Labels of the seconds by class."""


HEALTHY = [
    series("step", "0+10x720"),
    series("total_steps", "100000x720"),
    series("commit_age_seconds", "600x720"),
    series("attempt", "1x720"),
    series("tokens_per_second", "1000x720"),
    series("data_wait_share", "0.01x720"),
    series("loss", "2-0.001x720"),
    series("time_seconds", "0+55x720", COMPUTE),
    series("time_seconds", "0+2x720", SAVES),
]
SICK = {
    "RaysftStalled": series("step", "0+10x300 3000x420"),
    "RaysftCheckpointOld": series("commit_age_seconds", "0+60x720"),
    "RaysftRestarts": series("attempt", "1x690 2x10 3x10 5x10"),
    "RaysftSlow": series("tokens_per_second", "1000x600 300x120"),
    "RaysftDataWait": series("data_wait_share", "0.01x600 0.5x120"),
    "RaysftLossRises": series("loss", "2-0.001x650 5x70"),
    "RaysftLowGoodput": series("time_seconds", "0+55x600 33000+20x120", COMPUTE),
    "RaysftCheckpointStalls": series("time_seconds", "0+2x600 1200+20x120", SAVES),
}


def test_every_alert_is_tried() -> None:
    assert set(SICK) == {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}


@pytest.mark.skipif(PROMTOOL is None, reason="Prometheus' promtool is not installed")
def test_each_alert_fires_on_its_fault_alone(tmp_path: Path) -> None:
    bare = [{**rule, "annotations": {}} for group in RULES["groups"] for rule in group["rules"]]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "raysft", "rules": bare}]}))
    tests = []
    for fault in (None, *SICK):
        given = [one for one in HEALTHY if fault is None or one["series"] != SICK[fault]["series"]]
        for alert in SICK:
            fires = [{"exp_labels": {"run": "r", "severity": severity(alert)}}] if alert == fault else []
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [*given, *([SICK[fault]] if fault else [])],
                    "alert_rule_test": [{"alertname": alert, "eval_time": "719m", "exp_alerts": fires}],
                }
            )
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": tests}))
    found = subprocess.run(
        [str(PROMTOOL), "test", "rules", "tests.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def severity(alert: str) -> str:
    return next(
        rule["labels"]["severity"] for group in RULES["groups"] for rule in group["rules"] if rule["alert"] == alert
    )
