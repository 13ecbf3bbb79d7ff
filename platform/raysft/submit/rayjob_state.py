"""What a RayJob that is there means for one that is to be: pure, over the JSON that the API server gives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from raysft.errors import ConflictError, PlatformError
from raysft.kube.rayjob import RECIPE_HASH, RUN, SPEC_HASH, STORAGE

Act = Literal["create", "follow", "skip", "replace"]
_EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")
"""As Ray's job supervisor says it; the operator copies Ray's message."""


@dataclass(frozen=True)
class State:
    """What the operator and Ray say of a RayJob."""

    deployment: str
    """What the operator does with it: Initializing, Running, Retrying, Complete, Failed...; "": nothing yet."""
    job: str
    """Ray's own status of the job; "": there is none yet."""
    reason: str
    message: str

    @property
    def has_ended(self) -> bool:
        """For good: attempts that follow one another are one job."""
        return self.deployment in ("Complete", "Failed", "ValidationFailed")

    @property
    def has_succeeded(self) -> bool:
        """Its verb came to its end."""
        return self.deployment == "Complete" and self.job == "SUCCEEDED"

    @property
    def exit_code(self) -> int:
        """The run's own where Ray told it, else what its end stands for: 75 stopped, 3 anything else."""
        if self.has_succeeded:
            return 0
        if self.job == "STOPPED":
            return 75
        found = _EXIT_CODE.search(self.message)
        if found is None:
            return PlatformError.exit_code
        code = int(found[1])
        return code if code >= 0 else 128 - code

    @property
    def advice(self) -> str:
        """What an exit code of the shell means, that ran before raysft could; empty: it is the run's own."""
        if not self.has_succeeded and self.exit_code in (126, 127):
            return "the image has no `raysft` to run: name one made by cluster/Dockerfile in the cluster's file"
        return ""

    def __str__(self) -> str:
        return " / ".join(filter(None, (self.deployment or "not taken up", self.job)))


def state(job: dict[str, Any]) -> State:
    """What a RayJob says, as it is on the server."""
    status = job.get("status") or {}
    names = ("jobDeploymentStatus", "jobStatus", "reason", "message")
    return State(*(str(status.get(name) or "") for name in names))


def decide(there: dict[str, Any] | None, wanted: dict[str, Any], *, is_asked_for: bool) -> Act:
    """What to do about a RayJob of the same name.

    is_asked_for: this job itself, not as what another needs first; then one that has succeeded is done again.
    Raises ConflictError where it belongs to another run, or goes on with another recipe or in other pods.
    """
    if there is None:
        return "create"
    check_owner(there, wanted)
    now, name = state(there), there["metadata"]["name"]
    is_other = {note: _notes(there).get(note) != _notes(wanted)[note] for note in (RECIPE_HASH, SPEC_HASH)}
    if not now.has_ended:
        if not any(is_other.values()):
            return "follow"
        what = "another recipe of this run" if is_other[RECIPE_HASH] else "another description of the cluster"
        raise ConflictError(
            f"the RayJob {name} goes on with {what}",
            got=str(now),
            expected="one job at a time for each run",
            fix=f"wait for its end, or `raysft jobs stop {name} --on FILE` (the run goes on from its last commit)",
        )
    return "skip" if now.has_succeeded and not is_other[RECIPE_HASH] and not is_asked_for else "replace"


def check_owner(there: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ConflictError where an object of this name is not this run's."""
    theirs, ours = _notes(there), _notes(wanted)
    if any(theirs.get(note) != ours[note] for note in (RUN, STORAGE)):
        whose = f"the run {theirs[RUN]} in {theirs.get(STORAGE)}" if RUN in theirs else "not made by raysft"
        raise ConflictError(
            f"the name of the {there['kind']} {there['metadata']['name']} is taken",
            got=whose,
            expected=f"the run {ours[RUN]} in {ours[STORAGE]}",
            fix="give the recipe another name, or the other object another namespace",
        )


def _notes(one: dict[str, Any]) -> dict[str, str]:
    return one["metadata"].get("annotations") or {}
