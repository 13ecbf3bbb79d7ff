"""What a process of the sandbox does: it reads its job, raises its barriers, and plays its role.

Started as `python -s -P -B -c "...; main()" ROLE LINK PARENT`, with the job as JSON in its standard input and a file
for what it finds as its standard output. Nothing else is handed over.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from raysft.sandbox.answer_side import serve
from raysft.sandbox.attempts import attempt_all
from raysft.sandbox.barriers import BarrierError, Limits, raise_barriers
from raysft.sandbox.link import Link
from raysft.sandbox.tests_side import run_tests


def main() -> None:
    """The whole process."""
    role, link_descriptor, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with open(0, "rb", closefd=False) as stream:
        job: dict[str, Any] = json.load(stream)
    told = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    limits = Limits(**job["limits"])
    try:
        raise_barriers(job["directory"], limits, tuple(job["readable"]), parent)
    except BarrierError as error:
        _tell(told, {"barrier": error.barrier, "problem": error.problem})
        return
    sys.set_int_max_str_digits(0)
    if role == "probe":
        _tell(told, {"attempts": attempt_all(job["attempts"], limits)})
    elif role == "answer":
        os.close(told)
        serve(Link(link_descriptor, limits.file_bytes), job["setup"], job["code"])
    else:
        verdict, why = run_tests(Link(link_descriptor, limits.file_bytes), job["setup"], job["tests"])
        _tell(told, {"verdict": verdict, "why": why})
    os._exit(0)


def _tell(descriptor: int, found: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(found).encode())
