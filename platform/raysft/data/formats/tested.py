"""Problems of programming with their tests, as HumanEval and MBPP write them: a record's answer is its tests. Pure.

For sets that are evaluated by `passes_tests`; it is never guessed, so that tests are not trained on as answers.
"""

from __future__ import annotations

import ast

from raysft.data.formats.answers import RecordContent
from raysft.data.formats.fields import PROBLEMS, SOLUTIONS, TESTS
from raysft.data.formats.unread import KeyLedger
from raysft.data.formats.values import RefusedError, column_names, read_list, read_text
from raysft.data.records import Message

SETUP_END = "# end of setup"
"""A line of a reference: what stands above it is no test, and runs in front of the answer, too."""


def read_tested(account: KeyLedger) -> RecordContent:
    """The problem as the question; setup and tests, parted by SETUP_END, as the answer. Raises RefusedError."""
    problem, column = account.first(PROBLEMS), account.first(TESTS)
    if problem is None or column is None:
        raise RefusedError(
            "missing_column",
            f"tested needs {'|'.join(PROBLEMS)} and {'|'.join(TESTS)}; columns seen: {column_names(account.record)}",
        )
    account.used |= {name for name in SOLUTIONS if name in account.record}
    question, tests = read_text(account.get(problem), problem), _lines(account, column)
    entry = _optional(account, "entry_point")
    setup = [_lines(account, "test_imports"), _optional(account, "test_setup_code"), _above(question, entry)]
    if column == "test_list":
        question = f"{question}\nYour code should pass these tests:\n\n{tests}"
    if entry and "def check(" in tests:
        tests = f"{tests.rstrip()}\n\ncheck({entry})\n"
    before = "\n".join(filter(None, setup))
    system = _optional(account, "system")
    messages = [Message("system", system)] if system else []
    reference = f"{before}\n{SETUP_END}\n{tests}" if before else tests
    return RecordContent([*messages, Message("user", question), Message("assistant", reference)])


def setup_and_tests(reference: str) -> tuple[str, str]:
    """(setup, tests) of a reference that is tests."""
    lines = reference.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.strip() == SETUP_END:
            return "".join(lines[:number]), "".join(lines[number + 1 :])
    return "", reference


def _lines(account: KeyLedger, column: str) -> str:
    """A column that holds a text or several, as one text."""
    value = account.get(column) if column in account.record else None
    if value is None or isinstance(value, str):
        return value or ""
    return "\n".join(read_text(one, column) for one in read_list(value, column))


def _optional(account: KeyLedger, column: str) -> str:
    return read_text(account.get(column), column, optional=True) if column in account.record else ""


def _above(question: str, entry: str) -> str:
    """Imports and helpers of a question that is the head of a function (HumanEval's); empty: it is none."""
    try:
        nodes = ast.parse(question).body
    except (SyntaxError, ValueError):
        return ""
    kept = [one for one in nodes if not (isinstance(one, ast.FunctionDef) and one.name == entry)]
    return "\n".join(map(ast.unparse, kept)) if entry and len(kept) < len(nodes) else ""
