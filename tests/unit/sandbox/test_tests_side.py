"""What tests take from an answer; the answer's side is played by a thread with replies written here."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from raysft.sandbox.link import Link
from raysft.sandbox.tests_side import free_names, run_tests


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("assert f(1) == len([2])", {"f"}),
        ("import math\nassert math.isclose(f(1), g)", {"f", "g"}),
        ("def check(candidate):\n  x = helper(2)\n  assert candidate(x)\ncheck(add)", {"helper", "add"}),
        ("for i in range(3): assert f(i) == [k for k in range(i)]", {"f"}),
        ("class T(Base):\n  def test(self): self.assertEqual(f(), other)", {"Base", "f", "other"}),
        ("f = 1\nassert f", set()),
        ("def g():\n  global n\n  n = 1\ng()\nassert n == f()", {"f"}),
        ("assert (lambda x: y + x)(1)", {"y"}),
    ],
)
def test_what_tests_do_not_define(source: str, names: set[str]) -> None:
    assert free_names(source) == names


def verdict(tests: str, *replies: Any) -> tuple[str, list[Any]]:
    """(the verdict, what was asked) of tests whose answer replies so."""
    one, other = socket.socketpair()
    asked: list[Any] = []

    def play() -> None:
        with other, other.makefile("rwb") as stream:
            for reply in replies:
                asked.append(json.loads(stream.readline()))
                stream.write(json.dumps(reply).encode() + b"\n")
                stream.flush()

    player = threading.Thread(target=play)
    player.start()
    with one:
        found, _ = run_tests(Link(one.fileno(), 10_000), "", tests)
    player.join()
    return found, asked


F = {"value": {"kept": 5}}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"value": 3, "arguments": None}, "passed"),
        ({"value": 4, "arguments": None}, "wrong"),
        ({"value": {"kept": 9}, "arguments": None}, "wrong"),
        ({"value": {"nothing": 9}}, "ended"),
        ({"value": {}}, "ended"),
        ({}, "ended"),
        ([], "ended"),
        ("passed", "ended"),
        ({"error": "ValueError", "message": "x"}, "raised"),
        ({"error": "AssertionError", "message": "x"}, "raised"),
        ({"error": "SystemExit", "message": "x"}, "raised"),
        ({"error": "UnicodeDecodeError", "message": "x"}, "raised"),
        ({"error": ["x"], "message": "x"}, "raised"),
    ],
)
def test_verdicts(reply: Any, expected: str) -> None:
    found, asked = verdict("assert f([1]) == 3", F, reply)
    assert (found, asked) == (expected, [["name", ["f"], {}], ["call", [{"kept": 5}, [1]], {}]])


def test_what_was_changed_in_place() -> None:
    changed = {"value": None, "arguments": [[2], {"dict": [["k", 1]]}]}
    assert verdict("a, b = [1], {}\nf(a, b)\nassert (a, b) == ([2], {'k': 1})", F, changed)[0] == "passed"


def test_what_is_no_plain_data_is_not_handed_over() -> None:
    assert verdict("f(print)", F)[0] == "raised"


def test_a_name_that_the_answer_lacks() -> None:
    assert verdict("assert f() == 1", {"missing": True})[0] == "raised"
