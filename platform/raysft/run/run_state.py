"""How a run stands, by what lies in its directory: for whoever looks on while it is written. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raysft import storage
from raysft.lease import is_held
from raysft.run.rundir import read_result
from raysft.train.history.account import Account, read_account


@dataclass(frozen=True)
class RunState:
    """One run's."""

    status: Literal["finished", "running", "stopped", "failed"]
    """running: a command drives it. stopped: it was asked to. failed: anything else has ended it on the way."""
    what: str
    """When it finished, or what has ended it."""
    early: str = ""
    """Why a finished run ended before its last step; empty: it did not."""


def state_of(run: str, account: Account | None = None) -> RunState:
    """How a run stands now. account: its own, if it is at hand."""
    finished = read_result(run)
    if finished is not None:
        return RunState("finished", str(finished["finished_at"]), finished.get("ended", ""))
    if is_held(storage.join(run, "driver")):
        return RunState("running", "")
    costs = (account or read_account(run)).costs
    last = costs[-1].incident if costs else None
    if last is None:
        return RunState("failed", "it has ended before its first step, or its command was killed")
    return RunState("stopped" if last.kind == "interrupted" else "failed", last.what)
