"""The process that runs tests: what they name and do not define is the answer's, and lives in the other process.

The answer's code never sees the tests nor what they expect, and no comparison runs any of it: a value that is no
plain data is a Remote, which is equal to itself alone.
"""

from __future__ import annotations

import builtins
import symtable
import unittest
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

from raysft.sandbox.link import Link, LinkEndedError
from raysft.sandbox.values import decode, encode

PASSED, WRONG, RAISED, ENDED, UNTESTED = "passed", "wrong", "raised", "ended", "untested"


class AnswerError(Exception):
    """The answer's code raised something that Python does not know by itself."""


class Remote:
    """Something of the answer's that is no plain data. Not a dataclass: attributes are the other process's."""

    __slots__ = ("_ask", "_number")

    def __init__(self, number: int, ask: Callable[..., Any]) -> None:
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_ask", ask)

    def __call__(self, *values: Any, **named: Any) -> Any:
        return self._ask("call", self, *values, **named)

    def __getattr__(self, name: str) -> Any:
        return self._ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("setitem", self, key, value)

    def __contains__(self, value: Any) -> bool:
        return self._ask("contains", self, value) is True

    def __len__(self) -> int:
        return int(self._ask("len", self))

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        steps = self._ask("iter", self)
        while True:
            try:
                yield self._ask("next", steps)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._ask("next", self)

    def __str__(self) -> str:
        return str(self._ask("str", self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and other._number == self._number

    def __hash__(self) -> int:
        return hash(self._number)


class Asker:
    """Asks the answer's process, and counts how often."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.asked = 0

    def __call__(self, operation: str, *values: Any, **named: Any) -> Any:
        """What the operation gives (answer_side.OPERATIONS). Raises what it raised, LinkEndedError, TypeError."""
        self.asked += 1
        sent = [encode(one, self._number) for one in values]
        reply = self._replied([operation, sent, {name: encode(one, self._number) for name, one in named.items()}])
        try:
            if reply.get("arguments") is not None:
                for given, now in zip(values[1:], reply["arguments"], strict=True):
                    _write_back(given, decode(now, self._remote))
            return decode(reply["value"], self._remote)
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise LinkEndedError(f"no reply: {error}") from None

    def has(self, name: str) -> Any:
        """What the answer calls by a name, in a list; empty: nothing."""
        reply = self._replied(["name", [name], {}])
        return [decode(reply["value"], self._remote)] if "value" in reply else []

    def _replied(self, request: list[Any]) -> dict[str, Any]:
        self._link.send(request)
        reply = self._link.receive()
        if not isinstance(reply, dict):
            raise LinkEndedError("no reply")
        if "error" in reply:
            raise _error(str(reply["error"]), str(reply.get("message")))
        return reply

    def _remote(self, number: int) -> Remote:
        return Remote(number, self)

    @staticmethod
    def _number(value: Any) -> int:
        if not isinstance(value, Remote):
            raise TypeError(f"a {type(value).__name__} cannot be handed to the answer: it is no plain data")
        return int(object.__getattribute__(value, "_number"))


def _write_back(given: Any, now: Any) -> None:
    """What the answer changed in place."""
    if type(given) is list and type(now) is list:
        given[:] = now
    elif (type(given) is dict and type(now) is dict) or (type(given) is set and type(now) is set):
        given.clear()
        given.update(now)


def _error(name: str, message: str) -> Exception:
    """Never AssertionError: that is the tests' own."""
    known = builtins.__dict__.get(name)
    try:
        if isinstance(known, type) and issubclass(known, Exception) and known is not AssertionError:
            return known(message)
    except TypeError:  # UnicodeDecodeError takes five arguments
        pass
    return AnswerError(f"{name}: {message}")


def run_tests(link: Link, setup: str, tests: str) -> tuple[str, str]:
    """(PASSED or another verdict, why). Never raises."""
    asker, namespace = Asker(link), dict[str, Any]({"__name__": "tests"})
    try:
        exec(compile(setup, "setup", "exec"), namespace)
        program, names = compile(tests, "tests", "exec"), free_names(tests) - namespace.keys()
    except BaseException as error:
        return UNTESTED, f"{type(error).__name__}: {error}"[:500]
    try:
        for name in sorted(names):
            for found in asker.has(name):
                namespace[name] = found
                asker.asked += not isinstance(found, Remote)
        exec(program, namespace)
        _call_tests(namespace)
    except LinkEndedError as error:
        return ENDED, str(error)
    except AssertionError as error:
        return WRONG, str(error)[:500]
    except BaseException as error:
        return RAISED, f"{type(error).__name__}: {error}"[:500]
    return (PASSED, "") if asker.asked else (UNTESTED, "the tests used nothing of the answer")


def free_names(source: str) -> set[str]:
    """Names that a program uses and neither defines nor Python has."""
    found: set[str] = set()
    module = symtable.symtable(source, "tests", "exec")
    own = {one.get_name() for one in module.get_symbols() if one.is_assigned() or one.is_imported()}
    tables = [module]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        is_module = table is module
        found |= {
            one.get_name() for one in table.get_symbols() if one.is_referenced() and (is_module or one.is_global())
        }
        own |= {one.get_name() for one in table.get_symbols() if one.is_declared_global() and one.is_assigned()}
    return found - own - set(dir(builtins))


def _call_tests(namespace: dict[str, Any]) -> None:
    """What pytest and unittest would call. Raises AssertionError."""
    for name, value in list(namespace.items()):
        if name.startswith("test") and isinstance(value, FunctionType) and not value.__code__.co_argcount:
            value()
    classes = [one for one in namespace.values() if isinstance(one, type)]
    for case in [one for one in classes if issubclass(one, unittest.TestCase)]:
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
        broken = [*result.failures, *result.errors]
        if broken:
            raise AssertionError(broken[0][1].strip().rpartition("\n")[2])
