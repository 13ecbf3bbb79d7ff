"""The status decides, whatever becomes of the log stream and the server; the log is shown once, whole."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from job_server import FakeJob, FakeServer

from raysft.errors import InterruptedRunError, PlatformError
from raysft.runtime.job_client import Job
from raysft.submit.follow import Limits, exit_code, follow, last_line
from raysft.submit.reach import connect

FAST = Limits(poll_s=0.05, away_s=20.0, quiet_s=0.3, pending_s=0.1)
LOG = "".join(f"step {step}/40: loss {1 / step:.4f}\n" for step in range(1, 41))


@contextmanager
def doing(fake: FakeServer, *acts: Callable[[], object], every_s: float = 0.3) -> Iterator[None]:
    """Inside, these are called one after the other, by another thread, from the first question for the job on."""

    def run() -> None:
        while ("GET", "/api/jobs/a-1") not in [(method, path) for method, path, _ in fake.asked]:
            time.sleep(0.02)
        for act in acts:
            time.sleep(every_s)
            act()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def followed(fake: FakeServer, limits: Limits = FAST) -> tuple[str, Job]:
    pieces: list[str] = []
    job = follow(connect(fake.address), "a-1", pieces.append, limits)
    return "".join(pieces), job


def more(job: FakeJob, upto: int) -> Callable[[], object]:
    """Its log grows to so many lines."""
    lines = LOG.splitlines(keepends=True)
    return lambda: setattr(job, "log", "".join(lines[:upto]))


def test_a_log_is_shown_as_it_grows(fake: FakeServer) -> None:
    job = fake.add("a-1")
    with doing(fake, more(job, 10), more(job, 40), lambda: job.end("SUCCEEDED", 0)):
        text, ended = followed(fake, replace(FAST, quiet_s=20.0))
    assert text == LOG
    assert exit_code(ended) == 0
    assert fake.streams == 1


@pytest.mark.parametrize("after", [0, 1, 100, 777])
def test_a_stream_that_closes_as_if_all_were_well_ends_nothing(fake: FakeServer, after: int) -> None:
    """kuberay#4921: the stream closed, and the job was taken for ended."""
    job = fake.add("a-1", log=LOG[:800])
    fake.cut_streams_after = after
    with doing(fake, more(job, 38), more(job, 39), lambda: job.end("FAILED", 3), every_s=0.5):
        text, ended = followed(fake)
    assert text == "".join(LOG.splitlines(keepends=True)[:39])
    assert (ended.status, exit_code(ended)) == ("FAILED", 3)
    assert fake.streams > 1


def test_where_no_stream_is_let_through_the_log_is_read(fake: FakeServer) -> None:
    job = fake.add("a-1", log=LOG[:800])
    fake.refuses_streams = True
    with doing(fake, more(job, 38), more(job, 40), lambda: job.end("SUCCEEDED", 0), every_s=0.5):
        text, _ = followed(fake)
    assert text == LOG
    reads = [path for _, path, _ in fake.asked if path.endswith("/logs")]
    assert len(reads) < 15, "the pauses between reads grow"


def test_a_stream_that_hangs_is_noticed(fake: FakeServer) -> None:
    """What the job has printed since is shown while it runs."""
    job, seen = fake.add("a-1", log=LOG[:100]), list[str]()
    fake.freezes_streams = True
    server = connect(fake.address)
    follower = threading.Thread(target=lambda: follow(server, "a-1", seen.append, FAST))
    follower.start()
    expected = "".join(LOG.splitlines(keepends=True)[:30])
    until(lambda: "".join(seen) == LOG[:100])
    more(job, 30)()
    until(lambda: "".join(seen) == expected)
    job.end("SUCCEEDED", 0)
    follower.join(10)
    assert "".join(seen) == expected


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_is_away_ends_nothing(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    job = fake.add("a-1", log=LOG[:100])
    caplog.set_level(logging.INFO, logger="raysft")

    def leave() -> None:
        fake.is_away = True
        fake.cut_streams_after = 0

    def come_back() -> None:
        fake.is_away, fake.cut_streams_after = False, None

    with doing(
        fake, leave, more(job, 20), lambda: None, come_back, more(job, 40), lambda: job.end("FAILED", 75), every_s=0.5
    ):
        text, ended = followed(fake)
    assert text == LOG
    assert exit_code(ended) == 75
    told = [record.message for record in caplog.records]
    assert sum("does not answer" in line for line in told) == 1
    assert any("answers again after" in line for line in told)


def test_one_that_stays_away_is_given_up_and_the_job_is_not(fake: FakeServer) -> None:
    fake.add("a-1")
    with doing(fake, lambda: setattr(fake, "is_away", True)), pytest.raises(PlatformError) as caught:
        followed(fake, Limits(poll_s=0.05, away_s=0.5, quiet_s=0.3))
    assert "may well go on" in caught.value.expected
    assert "raysft jobs attach" in caught.value.fix


def test_a_head_that_was_started_anew_has_lost_the_job(fake: FakeServer) -> None:
    fake.add("a-1")
    with doing(fake, fake.jobs.clear), pytest.raises(InterruptedRunError, match="no longer knows") as caught:
        followed(fake)
    assert caught.value.exit_code == 75
    assert "submit the recipe again" in caught.value.fix


def test_why_a_job_does_not_begin_is_said_once(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="raysft")
    job = fake.add("a-1", status="PENDING", message="It may be waiting for the runtime environment.")
    with doing(fake, lambda: None, lambda: None, lambda: job.end("SUCCEEDED", 0)):
        followed(fake)
    assert [record.message for record in caplog.records if record.name.startswith("raysft")] == [
        "a-1 is waiting: It may be waiting for the runtime environment."
    ]


def test_what_a_job_prints_cannot_steer_a_terminal(fake: FakeServer) -> None:
    fake.add("a-1", log="\x1b]0;title\x07 done\tok\n").end("SUCCEEDED", 0)
    text, _ = followed(fake)
    assert text == "\\u001b]0;title\\u0007 done\tok\n"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("SUCCEEDED", None, 0),
        ("FAILED", 2, 2),
        ("FAILED", 3, 3),
        ("FAILED", 75, 75),
        ("FAILED", -9, 137),
        ("FAILED", None, 3),
        ("STOPPED", None, 75),
    ],
)
def test_the_exit_code_is_the_runs_own(status: str, code: int | None, expected: int) -> None:
    job = Job("a-1", status, {}, "its head\nis gone", code, 1.0, 2.0)
    assert exit_code(job) == expected
    assert f"exit code {expected}" in last_line(job)
    assert ("its head is gone" in last_line(job)) == (status == "FAILED" and code is None)
