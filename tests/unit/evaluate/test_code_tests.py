"""Answers as models write them, run against the tests of HumanEval's and MBPP's form."""

from __future__ import annotations

import pytest
from landlock import needs_landlock

from raysft.data.formats import Reading, read_record
from raysft.data.records import Refusal
from raysft.errors import UserError
from raysft.evaluate import code_tests
from raysft.evaluate.code_tests import CodeTests
from raysft.evaluate.scorers import scored
from raysft.metrics import METRICS
from raysft.metrics.base import Answer
from raysft.metrics.estimate import estimate
from raysft.recipe.sections.evaluate import PassesTestsSection
from raysft.sandbox.jail import NoStartError

HUMAN_EVAL = {
    "prompt": "import math\n\ndef poly(xs, x):\n    return sum(c * math.pow(x, i) for i, c in enumerate(xs))\n\n"
    'def find_zero(xs):\n    """ Find x such that poly(xs, x) = 0. """\n',
    "entry_point": "find_zero",
    "test": "def check(candidate):\n    assert math.fabs(poly([1, 2], candidate([1, 2]))) < 1e-4\n",
}
MBPP = {
    "text": "Write a function to find shared elements.",
    "test_list": ["assert set(shared((3, 4, 5), (5, 4))) == {4, 5}", "assert shared((1,), (2,)) == ()"],
}


def reference(record: dict[str, object]) -> str:
    found = read_record(record, Reading(format="tested"), id=1, source="s")
    assert not isinstance(found, Refusal)
    return found[0].messages[-1].content


@pytest.fixture(scope="module")
def scorer() -> CodeTests:
    return CodeTests.of(PassesTestsSection(cpu_s=2))


@needs_landlock
def test_answers_of_a_model(scorer: CodeTests) -> None:
    zero, shared = reference(HUMAN_EVAL), reference(MBPP)
    answers = [
        ("Sure!\n```python\ndef find_zero(xs):\n    return -xs[0] / xs[1]\n```\nIt divides.", zero, True),
        ("def find_zero(xs):\n    return math.floor(-xs[0] / xs[1])", zero, False),
        ("def find_zero(xs):\n    assert abs(poly(xs, -0.5)) < 1\n    return -0.5", zero, True),
        ("```py\ndef shared(a, b):\n    return tuple(set(a) & set(b))\n```", shared, True),
        ("I cannot help with that.", shared, False),
        ("", shared, False),
    ]
    found = scored([Answer("q", text, tests) for text, tests, _ in answers], {"passes_tests": scorer})
    passed = [bool(one.scores["passes_tests"].numbers[0]) for one in found]
    assert passed == [right for _, _, right in answers]
    assert {one.scores["passes_tests"].by for one in found} == {scorer.by}
    assert estimate(METRICS["passes_tests"], found).value == 0.5


def test_a_sandbox_that_stops_holding_is_no_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise NoStartError("landlock", "no")

    monkeypatch.setattr(code_tests, "judge", fails)
    with pytest.raises(UserError, match="stopped holding: landlock"):
        CodeTests(code_tests.Limits()).score([Answer("q", "a", "assert f()")], [])
