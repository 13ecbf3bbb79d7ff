"""A chat model behind an OpenAI-compatible address. Owns the rate, retries, and how long anything may take."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from raysft.addresses import proxies
from raysft.errors import UserError
from raysft.judge.prompts import Messages

TRIES = 6
"""Requests for one reply, where a server is busy, breaks off or is silent."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
REQUEST_S = 120.0
"""Longest time for a reply, and that a server may be silent."""
LONGEST_REPLY = 2**20
"""Bytes."""
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504, 529)


@dataclass(frozen=True)
class Reply:
    """What a model said, and what it counted."""

    text: str
    tokens_in: int
    tokens_out: int


@dataclass
class Endpoint:
    """One model. Safe to use from several threads."""

    url: str
    """Up to `/v1`; `/chat/completions` is added."""
    model: str
    key: str = field(repr=False, default="")
    per_minute: float = 0
    """Requests in a minute; 0: as many as it answers."""
    sleep: Callable[[float], None] = time.sleep
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _next: float = 0.0

    def ask(self, messages: Messages, max_tokens: int) -> Reply:
        """The reply to messages, greedily. Raises UserError after TRIES, or where trying again is of no use."""
        wait, problem = FIRST_WAIT_S, ""
        for left in reversed(range(TRIES)):
            self._take_turn()
            pause = wait
            try:
                answer, body = self._post(messages, max_tokens)
            except requests.RequestException as error:
                problem = f"{type(error).__name__} of {self._address}"
            else:
                if answer.status_code == 200 and (reply := _reply(body)) is not None:
                    return reply
                said = " ".join(body[:1000].decode("utf-8", "replace").split())[:200]
                if len(body) > LONGEST_REPLY:
                    said = f"more than {LONGEST_REPLY:,} bytes"
                problem = f"{answer.status_code} {answer.reason}: {said or 'nothing more'}"
                if answer.status_code not in (*_BUSY, 200):
                    break
                pause = max(wait, _retry_after(answer))
            if left:
                self.sleep(min(pause, LONGEST_WAIT_S))
                wait *= 2
        raise UserError(
            f"the judge {self.model} gives no reply",
            got=problem.replace(self.key, "***") if self.key else problem,
            expected=f"a reply of {self._address} within {TRIES} tries",
            fix="check address, model and key (RAYSFT_JUDGE_KEY), lower --per-minute; the same command goes on",
        )

    @property
    def _address(self) -> str:
        return self.url.rstrip("/") + "/chat/completions"

    def _post(self, messages: Messages, max_tokens: int) -> tuple[requests.Response, bytes]:
        """(answer, its body up to LONGEST_REPLY), within twice REQUEST_S however slowly it drips."""
        body: dict[str, Any] = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        way: Any = {"headers": headers, "timeout": REQUEST_S, "proxies": proxies(self.url), "allow_redirects": False}
        with requests.post(self._address, json=body, stream=True, **way) as answer:
            read, until = bytearray(), time.monotonic() + REQUEST_S
            for piece in answer.iter_content(1):  # more at once would wait for all of it
                read += piece
                if time.monotonic() > until:
                    raise requests.ReadTimeout
                if len(read) > LONGEST_REPLY:
                    break
            return answer, bytes(read)

    def _take_turn(self) -> None:
        """Waits so that no more requests begin in a minute than may."""
        if not self.per_minute:
            return
        with self._lock:
            at = max(self._next, time.monotonic())
            self._next = at + 60 / self.per_minute
        self.sleep(max(0.0, at - time.monotonic()))


def _reply(body: bytes) -> Reply | None:
    """None: it is none."""
    try:
        found: Any = json.loads(body) if len(body) <= LONGEST_REPLY else None
        text = found["choices"][0]["message"]["content"]
        usage = found.get("usage") or {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    tokens = [max(0, count) if isinstance(count, int) else 0 for count in counts]
    return Reply(text, tokens[0], tokens[1]) if isinstance(text, str) else None


def _retry_after(answer: requests.Response) -> float:
    """Seconds that a server asks to wait, as a number or a date (RFC 9110); 0: it says nothing of the kind."""
    told = answer.headers.get("Retry-After", "0")
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(told)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
