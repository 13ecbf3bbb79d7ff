"""Ray's Jobs API over HTTP: its official client, whose every request ends here, with raysft's errors.

Ray's client alone waits without a limit, prefers RAY_ADDRESS to the address that it is given, and sends a token only
where RAY_AUTH_MODE says so. Nothing here knows what a run is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from raysft.addresses import proxies
from raysft.errors import ClusterError, ConflictError

CONNECT_S = 10.0
"""Seconds within which a server takes a connection."""
ANSWER_S = 30.0
"""Seconds within which it answers."""
STOP_GRACE_S = 600
"""Seconds that a job has from a stop to its end: a run commits in them. Ray's default is 3, then it kills."""
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Where Ray's client looks first, whatever address it was given."""
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


class AwayError(ClusterError):
    """A job server that does not answer now; it may later."""


class UnknownJobError(ClusterError):
    """The cluster has no job of this id."""


@dataclass(frozen=True)
class Job:
    """A job as the server has it."""

    id: str
    status: str
    """PENDING, RUNNING, or one of ENDED."""
    metadata: Mapping[str, str]
    message: str
    """Ray's words: why it waits, why it failed, with the last lines of its log."""
    exit_code: int | None
    """What its process ended with; negative: a signal. None: it has not ended, or Ray does not know."""
    started_s: float | None
    """Unix seconds."""
    ended_s: float | None

    @property
    def has_ended(self) -> bool:
        """Its status is final."""
        return self.status in ENDED


@dataclass(frozen=True)
class JobRequest:
    """What is sent."""

    id: str
    entrypoint: str
    """A line for the head's shell."""
    working_dir: str
    """A local directory, which becomes the job's."""
    package: str
    """A local directory with a Python package, which all processes of the job import."""
    variables: Mapping[str, str]
    """Environment of the job and its workers. Whoever has the cluster's token can read it."""
    metadata: Mapping[str, str]


class JobServer:
    """A Ray cluster's job server. All methods raise AwayError where it does not answer, ClusterError for a token that
    it does not take."""

    def __init__(self, address: str, token: str | None) -> None:
        """address: `http(s)://host[:port][/path]`. token: sent with each request; None: none is."""
        self.address = address
        for name in ("ray", *(kind.__module__ for kind in JobSubmissionClient.__mro__[:2])):
            logging.getLogger(name).setLevel(logging.WARNING)  # less: a package is made and sent, a stream has ended
        with _without(ADDRESS_VARIABLES):
            # A header of ours, also an empty one, keeps Ray's client from adding a token that nobody asks for.
            self._client = _Client(address, headers={"Authorization": f"Bearer {token}" if token else ""})

    def jobs(self) -> list[Job]:
        """All jobs that were submitted to this cluster, the oldest first."""
        found = [_job(one) for one in self._client.list_jobs() if one.submission_id]
        return sorted(found, key=lambda job: job.started_s or 0.0)

    def job(self, identity: str) -> Job | None:
        """One of them; None: there is none of this id."""
        try:
            return _job(self._client.get_job_info(identity))
        except UnknownJobError:
            return None

    def submit(self, request: JobRequest) -> None:
        """Send a job. An answer that was lost is no second job. Raises ConflictError where the id is taken."""
        environment = {
            "working_dir": request.working_dir,
            "py_modules": [request.package],
            "env_vars": {**request.variables, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S)},
        }
        try:
            self._client.submit_job(
                entrypoint=request.entrypoint,
                submission_id=request.id,
                runtime_env=environment,
                metadata=dict(request.metadata),
            )
        except AwayError:
            if self.job(request.id) is None:
                raise

    def stop(self, identity: str) -> bool:
        """Ask a job to end: SIGTERM now, SIGKILL after STOP_GRACE_S. Returns whether it was running."""
        stopped: bool = self._client.stop_job(identity)
        return stopped

    def log(self, identity: str) -> str:
        """All that a job has printed."""
        text: str = self._client.get_job_logs(identity)
        return text

    async def tail(self, identity: str) -> AsyncIterator[str]:
        """What a job has printed and prints, from the beginning, until the stream ends, for whatever reason.

        Raises what its connection raises. That it ends says nothing of the job.
        """
        async for text in self._client.tail_job_logs(identity):
            yield text


class _Client(JobSubmissionClient):
    """Ray's client with time limits, and errors by what the server answered."""

    def _do_request(
        self,
        method: str,
        endpoint: str,
        *,
        data: bytes | None = None,
        json_data: dict[str, Any] | None = None,
        **none: Any,  # Ray's signature; its client gives no others
    ) -> requests.Response:
        try:
            response = super()._do_request(
                method,
                endpoint,
                data=data,
                json_data=json_data,
                timeout=(CONNECT_S, ANSWER_S if method == "GET" else 2 * ANSWER_S),
                allow_redirects=False,
                proxies=proxies(self.get_address()),
            )
        except AuthenticationError as error:
            raise token_refused(self.get_address(), str(error).split(":", 1)[0]) from error
        except requests.RequestException as error:
            raise away(self.get_address(), error) from error
        if response.status_code == 404 and not endpoint.startswith("/api/packages/"):
            raise UnknownJobError(
                f"the cluster at {self.get_address()} has no such job",
                got=endpoint.split("/")[3] if endpoint.count("/") > 2 else endpoint,
                expected="the id of a job that was submitted since its head started",
                fix="`raysft jobs list` names them",
            )
        if response.status_code in (400, 500) and "already exists" in response.text:
            raise ConflictError(
                "a job of this id was submitted at the same moment",
                got=str((json_data or {}).get("submission_id")),
                expected="one command at a time for one run",
                fix="see `raysft jobs list`, and attach to it",
            )
        if response.status_code >= 400 and response.status_code != 404:
            last = response.text.strip().splitlines()[-1:] or [""]
            raise AwayError(
                f"the job server {self.get_address()} cannot do it",
                got=f"{response.status_code} to {method} {endpoint}: {last[0][:500]}",
                expected="an answer",
                fix="see the dashboard's log on the head node; then the same command again",
            )
        return response


def away(address: str, error: Exception) -> AwayError:
    """The error of a server that does not answer."""
    return AwayError(
        f"the job server {address} does not answer",
        got=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
        expected=f"a Ray head's dashboard, within {CONNECT_S:.0f} s",
        fix="check the address, that the head runs with its dashboard (port 8265), and the way there: "
        "a firewall, `kubectl port-forward`, a VPN",
    )


def token_refused(address: str, got: str) -> ClusterError:
    """The error of a token that was not taken, or was not sent."""
    return ClusterError(
        f"the job server {address} does not take the token",
        got=got,
        expected="the token that the head node was started with",
        fix="set RAY_AUTH_TOKEN to it, or RAY_AUTH_TOKEN_PATH to a file that holds it (KubeRay keeps it in the "
        "Secret of the RayCluster's name, key auth_token)",
    )


def _job(details: Any) -> Job:
    """details: ray.job_submission.JobDetails."""
    return Job(
        id=details.submission_id or details.job_id,
        status=str(details.status),
        metadata=dict(details.metadata or {}),
        message=details.message or "",
        exit_code=details.driver_exit_code,
        started_s=details.start_time and details.start_time / 1000,
        ended_s=details.end_time and details.end_time / 1000,
    )


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Inside, these environment variables are not set: Ray's client would follow them, not its argument."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
