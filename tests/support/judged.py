"""Two systems' answers, a judge that is fair to them, and an endpoint that waits for nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rated import answers_file

from raysft.human.command import Asked
from raysft.judge.client import Endpoint

NUM = 8
"""Questions."""


def asked_of(folder: Path, **more: Any) -> Asked:
    """`after` is right, `before` wrong; of question 3 both are alike."""
    wrong = [str(i + 1 if i == 3 else i + 7) for i in range(NUM)]
    right = [str(i + 1) + " " * (i == 3) + "." * (i == 3) for i in range(NUM)]
    answers = {"before": answers_file(folder / "a.jsonl", wrong), "after": answers_file(folder / "b.jsonl", right)}
    return Asked(answers, (), **more)


def fair(messages: list[dict[str, str]], number: int) -> str:
    """Whichever answer is the question's number and 1."""
    text = messages[1]["content"]
    if "Gold" in text:
        return json.dumps({"verdict": "A" if "<answer_A>\ngood" in text else "B"})
    wanted = str(int(re.findall(r"How much is (\d+)", text)[0]) + 1)
    sides = [re.findall(rf"<answer_{name}>\n(.*)\n", text)[0].strip(". ") == wanted for name in "AB"]
    return json.dumps({"verdict": "tie" if all(sides) else "A" if sides[0] else "B" if sides[1] else "both_bad"})


def quick(url: str, waits: list[float] | None = None, **more: Any) -> Endpoint:
    return Endpoint(url, "judge", sleep=(waits if waits is not None else []).append, **more)
