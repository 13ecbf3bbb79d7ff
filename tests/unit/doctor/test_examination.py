"""Clocks, ports and demands that were planted; what is printed, and the exit code."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from raysft.cli import main
from raysft.doctor import examination
from raysft.doctor.checks import examine
from raysft.doctor.examination import Examination, ask_without_token, measure_clock, names_of
from raysft.doctor.facts import Facts, Finding, NodeFacts
from raysft.runtime.demand import Waiting, waiting_in
from raysft.runtime.on_nodes import AliveNode


@pytest.mark.parametrize("ahead_s", [0.0, 3.0, -90.0])
def test_a_clock_that_was_shifted(ahead_s: float) -> None:
    """The node's answer takes its time; the quickest counts."""
    delays = iter([0.05, 0.001, 0.03, 0.001, 0.02])

    def ask() -> float:
        time.sleep(delay := next(delays))
        told = time.time() + ahead_s
        time.sleep(delay)
        return told

    offset, error = measure_clock(ask)
    assert abs(offset - ahead_s) <= error < 0.02
    found = examine(Facts([NodeFacts("a", "10.0.0.1", {}, clock_offset_s=offset, clock_error_s=error)]))
    assert [one.verdict for one in found if one.check == "clocks"] == ["fail" if ahead_s else "ok"]


@contextmanager
def serving(status: int) -> Iterator[str]:
    """A dashboard on all addresses that answers everybody the same."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Nothing."""

    server = HTTPServer(("0.0.0.0", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api/jobs/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [200, 401, 403])
def test_a_dashboard_is_asked_without_a_token(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving(status) as url:
        assert ask_without_token(url).status == status
    assert ask_without_token("http://127.0.0.1:1/api/jobs/").status == 0


def status(
    *bundles: tuple[dict[str, float], int], called: tuple[dict[str, float], ...] = ()
) -> GetClusterStatusReply:
    """A cluster of one node with 4 CPUs, in which these wait."""
    reply = GetClusterStatusReply()
    node = reply.cluster_resource_state.node_states.add()
    node.total_resources["CPU"] = 4
    for bundle, count in bundles:
        request = reply.cluster_resource_state.pending_resource_requests.add()
        request.count = count
        for name, amount in bundle.items():
            request.request.resources_bundle[name] = amount
    for bundle in called:
        one = reply.autoscaling_state.infeasible_resource_requests.add()
        for name, amount in bundle.items():
            one.resources_bundle[name] = amount
    return reply


def test_demands_that_can_never_be_met() -> None:
    busy, large = {"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}
    told = status((busy, 3), (large, 2))
    assert waiting_in(told, is_scaled=False) == [Waiting(busy, 3, False), Waiting(large, 2, True)]
    assert not [one for one in waiting_in(told, is_scaled=True) if one.is_impossible], "nodes may come"
    told = status((busy, 3), (large, 2), called=(large,))
    assert [one.is_impossible for one in waiting_in(told, is_scaled=True)] == [False, True]


def test_nodes_of_one_address_are_told_apart() -> None:
    nodes = [AliveNode("aa11bb22cc", "10.0.0.1", {}), AliveNode("ff00ee11dd", "10.0.0.1", {})]
    assert names_of(nodes) == {"aa11bb22cc": "10.0.0.1/bb22cc", "ff00ee11dd": "10.0.0.1/ee11dd"}
    assert names_of(nodes[:1]) == {"aa11bb22cc": "10.0.0.1"}


def test_what_is_printed() -> None:
    found = Examination([Finding("nodes", "ok", "1 node(s) answer"), Finding("clocks", "fail", "apart", "run NTP")])
    assert found.lines() == [
        "ok    nodes     1 node(s) answer",
        "fail  clocks    apart",
        "                fix: run NTP",
        "2 checks: 1 failed, 0 warnings",
    ]
    assert found.to_json()["findings"][1] == {
        **{"check": "clocks", "verdict": "fail"},
        **{"evidence": "apart", "fix": "run NTP"},
    }


@pytest.mark.parametrize(("verdict", "code"), [("fail", 1), ("warn", 0), ("skip", 0), ("ok", 0)])
def test_its_exit_code_is_for_an_init_container(verdict: Any, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Examination([Finding("nodes", verdict, "told")])
    monkeypatch.setattr(examination, "examine", lambda recipe, location: found)
    assert main(["doctor"]) == code
    assert main(["doctor", "--json", "--storage", "/tmp"]) == code
