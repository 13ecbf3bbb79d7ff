"""Problems with tests: the columns of HumanEval and of MBPP, as they are published."""

from __future__ import annotations

from typing import Any

from raysft.data.formats import Reading, read_record
from raysft.data.formats.tested import setup_and_tests
from raysft.data.records import Conversation, Refusal

HUMAN_EVAL = {
    "task_id": "HumanEval/32",
    "prompt": "import math\n\n\ndef poly(xs: list, x: float):\n    return sum([c * math.pow(x, i) for i, c in "
    'enumerate(xs)])\n\n\ndef find_zero(xs: list):\n    """ Find x such that poly(x) = 0. """\n',
    "entry_point": "find_zero",
    "canonical_solution": "    return 0\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n"
    "    assert math.fabs(poly([1, 2], candidate([1, 2]))) < 1e-4\n",
}
MBPP = {
    "task_id": 11,
    "text": "Write a python function to remove first and last occurrence of a given character from the string.",
    "code": "def remove_Occ(s,ch): return s",
    "test_setup_code": "import string",
    "test_list": ['assert remove_Occ("hello","l") == "heo"', 'assert remove_Occ("abcda","a") == "bcd"'],
    "challenge_test_list": [],
}
SANITIZED = {
    "source_file": "b.ipynb",
    "task_id": 2,
    "prompt": "Write a function to find the shared elements.",
    "code": "def similar_elements(a, b): return a",
    "test_imports": ["import math"],
    "test_list": ["assert set(similar_elements((3, 4), (4, 5))) == set((4,))"],
}


def read(record: dict[str, Any], **more: Any) -> Conversation | Refusal:
    found = read_record(record, Reading(format="tested", **more), id=7, source="f")
    return found if isinstance(found, Refusal) else found[0]


def parts(record: dict[str, Any], **more: Any) -> tuple[str, str, str]:
    """(question, setup, tests)."""
    found = read(record, **more)
    assert isinstance(found, Conversation), found
    question, answer = found.messages[-2:]
    return (question.content, *setup_and_tests(answer.content))


def test_human_eval() -> None:
    question, setup, tests = parts(HUMAN_EVAL)
    assert question == HUMAN_EVAL["prompt"]
    assert setup.startswith("import math\ndef poly(xs: list, x: float):")
    assert "find_zero" not in setup
    assert tests.strip().endswith("\n\ncheck(find_zero)")


def test_mbpp() -> None:
    question, setup, tests = parts(MBPP)
    assert (setup, tests.splitlines()) == ("import string\n", MBPP["test_list"])
    assert question.endswith("Your code should pass these tests:\n\n" + tests)
    question, setup, tests = parts(SANITIZED)
    assert question.startswith("Write a function to find the shared elements.\nYour code")
    assert (setup, tests) == ("import math\n", SANITIZED["test_list"][0])


def test_any_other() -> None:
    record = {"instruction": "Add.", "test": "assert add(1, 2) == 3", "system": "Answer in Python."}
    assert parts(record) == ("Add.", "", "assert add(1, 2) == 3")
    found = read(record)
    assert isinstance(found, Conversation)
    assert found.messages[0].content == "Answer in Python."
    assert (
        parts({"task": "Add.", "checks": "assert f()"}, columns={"prompt": "task", "tests": "checks"})[2]
        == "assert f()"
    )


def test_solutions_are_seen_by_nobody() -> None:
    for record, solution in ((HUMAN_EVAL, "return 0"), (MBPP, "return s"), (SANITIZED, "return a")):
        found = read(record)
        assert isinstance(found, Conversation)
        assert solution not in repr(found.messages)
        assert [note for note in found.notes if note.kind == "unread"] == []


def test_what_has_no_tests_is_refused() -> None:
    for record in (
        {"prompt": "Add."},
        {"test": "assert 1"},
        {"prompt": "Add.", "test": ""},
        {"prompt": "Add.", "test": 3},
    ):
        assert isinstance(read(record), Refusal)


def test_it_is_never_guessed() -> None:
    """Tests that are trained on as answers would be no mistake that anybody sees."""
    for record in (HUMAN_EVAL, MBPP, SANITIZED):
        found = read_record(record, Reading(format="auto"), id=7, source="f")
        texts = "" if isinstance(found, Refusal) else repr(found[0].messages)
        assert "assert" not in texts
