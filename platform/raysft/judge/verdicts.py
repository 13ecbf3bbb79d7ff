"""A judge's replies in a file of JSON lines, one a request: cache and record. The same job goes on where it was.

A line has `key` (a hash of the model and the messages), `item`, `flipped`, `value` (null: nonsense, after one
reminder), `reply`, `tokens_in` and `tokens_out`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, BinaryIO

from raysft.appended import append, held, is_torn
from raysft.errors import ConflictError, UserError
from raysft.human.study import Item, Study
from raysft.judge.client import Endpoint
from raysft.judge.prompts import AGAIN, Messages, messages_of, read_reply

Line = dict[str, Any]
_BEGINS = b'{"key": "'
"""What each line begins with."""


@dataclass(frozen=True)
class Request:
    """One question to the judge."""

    item: Item
    flipped: bool
    messages: Messages
    key: str


def requests_of(study: Study, model: str) -> list[Request]:
    """Everything that a study asks of a judge: each pair in both orders, each single answer once."""
    found = []
    for item in study.items:
        for flipped in (False, True) if study.mode == "pairwise" else (False,):
            messages = messages_of(item, study.mode, study.criteria, flipped=flipped)
            text = json.dumps([model, messages], ensure_ascii=False)
            key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
            found.append(Request(item, flipped, messages, key))
    return found


def judged(
    study: Study,
    endpoint: Endpoint,
    out: str,
    *,
    parallel: int = 4,
    max_tokens: int = 512,
) -> tuple[list[Line], int]:
    """(the line of each request in their order, how many of them were asked now).

    Raises UserError where the judge gives no reply: what it has replied is kept. StorageError, ConflictError.
    """
    asked = requests_of(study, endpoint.model)
    with held(out) as stream:
        lines = _there(stream, {one.key for one in asked}, study)
        missing = list({one.key: one for one in asked if one.key not in lines}.values())
        ended = threading.Event()

        def ask(one: Request) -> Line:
            if ended.is_set():
                raise CancelledError
            try:
                return _ask(study, endpoint, one, max_tokens)
            except BaseException:
                ended.set()
                raise

        with ThreadPoolExecutor(parallel) as pool:
            waiting = [pool.submit(ask, one) for one in missing]
            try:
                failed = _keep(waiting, lambda line: append(stream, _text(line), out), lines)
            except BaseException:
                ended.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failed is not None:
            raise failed
    return [{**lines[one.key], "item": one.item.number, "flipped": one.flipped} for one in asked], len(missing)


def _keep(waiting: Sequence[Future[Line]], write: Callable[[Line], None], lines: dict[str, Line]) -> UserError | None:
    """Writes each reply when it comes. After the first failure nothing more is asked, and what comes is kept."""
    failed = None
    for future in as_completed(waiting):
        try:
            line = future.result()
        except CancelledError:
            continue
        except UserError as error:
            failed = failed or error
            continue
        write(line)
        lines[line["key"]] = line
    return failed


def _ask(study: Study, endpoint: Endpoint, one: Request, max_tokens: int) -> Line:
    """Asks, and once more with a reminder where the reply is nonsense."""
    messages, tokens_in, tokens_out, text, value = list(one.messages), 0, 0, "", None
    for _ in range(2):
        reply = endpoint.ask(messages, max_tokens)
        text, tokens_in, tokens_out = reply.text, tokens_in + reply.tokens_in, tokens_out + reply.tokens_out
        value = read_reply(text, study.mode, study.criteria, flipped=one.flipped)
        if value is not None:
            break
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": AGAIN}]
    counted = {"tokens_in": tokens_in, "tokens_out": tokens_out}
    return {"key": one.key, "item": one.item.number, "flipped": one.flipped, "value": value, "reply": text, **counted}


def _is_line(line: Mapping[str, Any], asked: set[str], study: Study) -> bool:
    """Is it one of ours? Lines with other keys may be of another mode."""
    numbers = all(type(line.get(name)) is int for name in ("tokens_in", "tokens_out"))
    value = line.get("value", "")
    is_rating = value is None or study.is_value(value)
    return isinstance(line.get("key"), str) and numbers and (line["key"] not in asked or is_rating)


def _there(stream: BinaryIO, asked: set[str], study: Study) -> dict[str, Line]:
    """{key: line} of the whole lines; one that a kill has torn is cut off. asked: keys of what is wanted."""
    stream.seek(0)
    found, end = {}, 0
    for text in stream:
        try:
            line = json.loads(text) if text.endswith(b"\n") else None
        except ValueError:
            line = None
        if is_torn(text, _BEGINS):
            break
        if not isinstance(line, dict) or not _is_line(line, asked, study):
            raise ConflictError(
                "the file of a judge's replies holds something else",
                got=f"after byte {end}: {text[:60]!r}",
                expected="lines that `raysft evaluate judge` has written",
                fix="name another file",
            )
        found[line["key"]] = line
        end += len(text)
    stream.truncate(end)
    stream.seek(end)
    return found


def _text(line: Line) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def totals(lines: Sequence[Line]) -> tuple[int, int]:
    """Tokens that were read and written, each request once."""
    once = {line["key"]: line for line in lines}.values()
    return sum(line["tokens_in"] for line in once), sum(line["tokens_out"] for line in once)
