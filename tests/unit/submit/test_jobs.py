"""Sending, finding, stopping and listing jobs, over real HTTP with Ray's own client."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from job_server import FakeServer

from raysft.errors import ConflictError
from raysft.recipe.load import parse_recipe
from raysft.recipe.schema import Recipe
from raysft.runtime.job_client import STOP_GRACE_S, AwayError, JobRequest, UnknownJobError
from raysft.submit import jobs
from raysft.submit.parcel import RUN, STORAGE, VERB
from raysft.submit.reach import connect


@pytest.fixture
def recipe() -> Recipe:
    return parse_recipe(
        {
            "name": "my-run",
            "storage": "s3://bucket/raysft",
            "model": {"source": "Qwen/Qwen3-0.6B"},
            "data": {"train": "s3://bucket/a.jsonl"},
        }
    )


def test_a_run_is_sent_whole(fake: FakeServer, recipe: Recipe) -> None:
    identity = jobs.submit(connect(fake.address), recipe, "train", {"HF_TOKEN": "hf_abc"}, debug=True)
    assert identity == "my-run-1"
    sent = fake.jobs[identity].request
    assert sent["entrypoint"] == "exec python -m raysft.cli train recipe.yaml --debug"
    environment = sent["runtime_env"]
    assert environment["env_vars"] == {"HF_TOKEN": "hf_abc", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S)}
    assert sent["metadata"][RUN] == "my-run"
    assert sent["metadata"][STORAGE] == "s3://bucket/raysft"
    assert "hf_abc" not in str(sent["metadata"])
    work, package = environment["working_dir"], environment["py_modules"][0]
    assert fake.files(work.rpartition("/")[2]) == ["recipe.yaml"]
    names = fake.files(package.rpartition("/")[2])
    assert {"raysft/__init__.py", "raysft/cli/__main__.py", "raysft/data/text/templates/chatml.jinja"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


def test_the_next_attempt_is_told_from_what_it_goes_on(
    fake: FakeServer, recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="raysft")
    of_run = {RUN: "my-run", STORAGE: recipe.storage}
    fake.add("my-run-prepare-1", metadata=of_run | {VERB: "prepare"}, started_s=3.0).end("SUCCEEDED", 0)
    fake.add("my-run-1", metadata=of_run | {VERB: "train"}, started_s=2.0).end("FAILED", 137)
    fake.add("my-run-9", metadata=of_run | {VERB: "train", STORAGE: "elsewhere"}, started_s=4.0).end("FAILED", 3)
    server = connect(fake.address)
    assert jobs.submit(server, recipe, "train", {}) == "my-run-10"
    assert "my-run-10; it goes on where my-run-1 ended (FAILED)" in caplog.text
    fake.jobs["my-run-10"].end("SUCCEEDED", 0)
    jobs.submit(server, recipe, "prepare", {})
    assert "my-run-prepare-2; my-run-prepare-1 had succeeded" in caplog.text


def test_an_answer_that_is_lost_is_no_second_job(fake: FakeServer, recipe: Recipe) -> None:
    fake.loses_answers = True
    assert jobs.submit(connect(fake.address), recipe, "train", {}) == "my-run-1"
    assert list(fake.jobs) == ["my-run-1"]


def test_two_commands_at_the_same_moment_are_one_job(fake: FakeServer, tmp_path: Path) -> None:
    """The second did not see the first one's job when it chose its number."""
    fake.add("my-run-1")
    request = JobRequest("my-run-1", "true", str(tmp_path), str(tmp_path), {}, {})
    with pytest.raises(ConflictError, match="at the same moment") as caught:
        connect(fake.address).submit(request)
    assert caught.value.got == "my-run-1"


def test_a_cluster_that_takes_no_job_now_says_so(fake: FakeServer, recipe: Recipe) -> None:
    fake.replies["/api/jobs/my-run-1"] = web.Response(status=404)
    server = connect(fake.address)
    jobs_there = server.jobs()
    fake.replies["/api/jobs/"] = web.Response(status=500, text="Traceback\n  ...\nNo available agent to submit job")
    assert jobs_there == []
    with pytest.raises(AwayError, match="cannot do it") as caught:
        server.jobs()
    assert "No available agent" in caught.value.got


def test_an_id_that_nobody_has_names_those_that_there_are(fake: FakeServer) -> None:
    fake.add("a-1")
    fake.add("a-2")
    with pytest.raises(UnknownJobError, match="no such job") as caught:
        jobs.find(connect(fake.address), "a-3")
    assert caught.value.expected == "one of a-1, a-2"


def test_a_stop_waits_for_the_end(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "STOP_POLL_S", 0.01)
    fake.add("a-1")
    assert jobs.stop(connect(fake.address), "a-1").status == "STOPPED"
    fake.add("a-2").end("SUCCEEDED", 0)
    asked = len(fake.asked)
    assert jobs.stop(connect(fake.address), "a-2").status == "SUCCEEDED"
    assert not [path for method, path, _ in fake.asked[asked:] if method == "POST"]


def test_a_list_says_why_a_job_does_not_run(fake: FakeServer) -> None:
    server = connect(fake.address)
    assert jobs.lines(server.jobs(), 0.0) == ["no jobs since the cluster's head started"]
    fake.add("b-1", status="PENDING", message="It may be waiting\nfor resources.", started_s=1_795_000_100.0)
    fake.add("a-1", metadata={RUN: "a", "raysft.verb": "train"}).end("FAILED", 2, "log ...")
    fake.add("c-1", started_s=1_795_000_200.0).end("FAILED", None, "runtime_env setup failed: pip")
    table = jobs.lines(server.jobs(), 1_795_003_800.0)
    assert [line.split() for line in table] == [
        ["JOB", "STATUS", "EXIT", "RUN", "VERB", "STARTED", "(UTC)", "TOOK"],
        ["a-1", "FAILED", "2", "a", "train", "11-18", "11:06:40", "1:03"],
        ["b-1", "PENDING", "-", "-", "11-18", "11:08:20", "1:01:40"],
        ["It", "may", "be", "waiting", "for", "resources."],
        ["c-1", "FAILED", "-", "-", "11-18", "11:10:00", "1:03"],
        ["runtime_env", "setup", "failed:", "pip"],
    ]
