"""The process that runs an answer: it defines what the code defines, and does with it what the tests' process asks.

Nothing in here is to be trusted once the code runs: the code may change all of it. It can only send values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from raysft.sandbox.link import Link, LinkEndedError
from raysft.sandbox.values import decode, encode

OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": operator.call,
    "getattr": lambda value, name: getattr(value, name),
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "contains": operator.contains,
    "len": len,
    "iter": iter,
    "next": next,
    "str": str,
}
"""{name: what is done with values}. `name` gives what the code calls so."""


def serve(link: Link, setup: str, code: str) -> None:
    """Run setup and code, then answer requests [operation, values, named values] until the link ends.

    A reply is {value, arguments: those of a call, which it may have changed} or {error, message}.
    """
    namespace: dict[str, Any] = {"__name__": "answer"}
    failure = None
    try:
        exec(compile(setup, "setup", "exec"), namespace)
        exec(compile(code, "answer", "exec"), namespace)
    except Exception as error:
        failure = error
    objects: list[Any] = []
    while True:
        try:
            request = link.receive()
        except LinkEndedError:
            return
        try:
            if failure is not None:
                raise failure
            reply = _reply(request, namespace, objects)
        except Exception as error:
            reply = _error(error)
        try:
            link.send(reply)
        except (ValueError, TypeError, RecursionError) as error:
            link.send(_error(error))


def _reply(request: Any, namespace: dict[str, Any], objects: list[Any]) -> dict[str, Any]:
    operation, values, named = request
    if operation == "name":
        (name,) = values
        return {"value": _encoded(namespace[name], objects)} if name in namespace else {"missing": True}
    given = [decode(one, objects.__getitem__) for one in values]
    more = {name: decode(one, objects.__getitem__) for name, one in named.items()}
    value = _encoded(OPERATIONS[operation](*given, **more), objects)
    changed = [_encoded(one, objects) for one in given[1:]] if operation == "call" else []
    return {"value": value, "arguments": changed if changed != values[1:] else None}


def _encoded(value: Any, objects: list[Any]) -> Any:
    def kept(one: Any) -> int:
        objects.append(one)
        return len(objects) - 1

    return encode(value, kept)


def _error(error: Exception) -> dict[str, str]:
    return {"error": type(error).__name__, "message": str(error)[:500]}
