"""What becomes of a sample that is longer than a row: refused, split into windows, or cut turn by turn. Pure.

A cut takes only from the texts of turns: headers, ends of turns and special tokens stay whole, up to the last trained
token. In this order, as far as need be: what follows that token, from the end, wherever it then ends (nothing that is
trained sees it); from the first turn on, whole turns and the beginning of the next one of the same role; texts of the
prompt's other turns from their beginnings; the system text from its end; the end of the last answer. So the system
turn stays if it can, and an answer is cut when nothing else is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raysft.data.records import Refusal

OverLong = Literal["drop", "truncate", "split"]
STRADDLES, UNKNOWN, CUT = 1, 2, 4
"""Flags of a token: it reaches over a trained text's border; it stands for letters that the tokenizer lacks, or
letters before it were lost; it begins an answer, where the whole text would have had another token."""
ROLES = ("system", "user", "assistant", "tool", "text")


class Example(NamedTuple):
    """One tokenized conversation, or a part of it. `target` holds a weight per token; 0: not trained.

    `start`: index of the first token in the whole conversation. `truncated`: tokens were lost, by role in `removed`.
    `template`: name of the one that wrote it. `segments`: tokens of each of several samples that stand behind each
    other here, an atom; empty: this is one sample. `sides`: what each of them is, in a word. `values`: what the
    record says beside its text, by the names of columns (recipe/columns.py).
    """

    sample_id: int
    input_ids: NDArray[np.int32]
    target: NDArray[np.float32]
    flags: NDArray[np.uint8]
    truncated: bool = False
    start: int = 0
    removed: Mapping[str, int] = MappingProxyType({})
    template: str = ""
    segments: tuple[int, ...] = ()
    sides: tuple[str, ...] = ()
    values: Mapping[str, float | list[float]] = MappingProxyType({})

    @property
    def straddles(self) -> int:
        """Tokens that reach over the border of a trained text."""
        return int(np.count_nonzero(self.flags & STRADDLES))

    @property
    def unknown(self) -> int:
        """Tokens that stand for letters which the tokenizer lacks."""
        return int(np.count_nonzero(self.flags & UNKNOWN))

    @property
    def cuts(self) -> int:
        """Answers whose first token was cut from its prompt."""
        return int(np.count_nonzero(self.flags & CUT))


COUNTED = ("straddles", "unknown", "cuts", *(f"removed_{role}" for role in ROLES))
"""What is counted of every example besides its tokens and targets."""


def counted(examples: Sequence[Example]) -> NDArray[np.int64]:
    """COUNTED of each example: [len(COUNTED), N]."""
    found = np.zeros((len(COUNTED), len(examples)), np.int64)
    flags = [example.flags for example in examples]
    ends = np.cumsum(np.fromiter(map(len, flags), np.int64, len(flags)))
    joined = np.concatenate(flags) if flags else np.zeros(0, np.uint8)
    for row, flag in enumerate((STRADDLES, UNKNOWN, CUT)):
        owners = np.searchsorted(ends, np.flatnonzero(joined & flag), side="right")
        found[row] = np.bincount(owners, minlength=len(examples))
    for number, example in enumerate(examples):
        if example.removed:
            found[-len(ROLES) :, number] = [example.removed.get(role, 0) for role in ROLES]
    return found


@dataclass(frozen=True)
class Turn:
    """Tokens [first, last) that lie in the text of a turn."""

    role: str
    first: int
    last: int


def split(whole: Example, limit: int, context: int) -> tuple[Example, ...]:
    """Windows of at most `limit` tokens that train each target once; they share `context` tokens."""
    targets = np.flatnonzero(whole.target)
    windows: list[Example] = []
    done = 0
    while (first := int(np.searchsorted(targets, done))) < len(targets):
        start = max(0, int(targets[first]) - context) if done or targets[first] >= limit else 0
        windows.append(_window(whole, start, start + limit, new=max(done, start)))
        done = start + limit
    return tuple(windows)


def cut_text(whole: Example, limit: int) -> Example:
    """The first `limit` tokens of plain text."""
    return whole._replace(
        input_ids=whole.input_ids[:limit],
        target=whole.target[:limit],
        flags=whole.flags[:limit],
        truncated=True,
        removed={"text": len(whole.input_ids) - limit},
    )


def truncate(whole: Example, limit: int, turns: Sequence[Turn]) -> Example | Refusal:
    """`limit` tokens of the example, one trained at least. turns: in the order of the text."""
    targets = np.flatnonzero(whole.target)
    last_target = int(targets[-1])
    kept = np.ones(len(whole.input_ids), np.bool_)
    _drop(kept, last_target + 1, len(kept), limit, from_end=True)
    talk = [turn for turn in turns if turn.role != "system"]
    _drop_opening(kept, talk, targets, limit)
    prompt = [turn for turn in talk if turn.role != "assistant" and turn.last <= last_target]
    for turn in prompt:
        _drop(kept, turn.first, turn.last, limit)
    for turn in turns:
        if turn.role == "system":
            _drop(kept, turn.first, turn.last, limit, from_end=True)
    answer = next((turn for turn in reversed(turns) if turn.first <= last_target), None)
    first = max(answer.first if answer else 1, int(targets[0]) + 1)
    _drop(kept, first, last_target + 1, limit, from_end=True)
    if kept.sum() > limit or not np.any(whole.target[kept]):
        return Refusal("over_long", f"{len(kept)} tokens, at most {limit} fit a row, and no text is left to cut")
    return whole._replace(
        input_ids=whole.input_ids[kept],
        target=whole.target[kept],
        flags=whole.flags[kept],
        truncated=True,
        removed=_by_role(np.flatnonzero(~kept), turns),
    )


def _drop_opening(kept: NDArray[np.bool_], talk: Sequence[Turn], targets: NDArray[np.int64], limit: int) -> None:
    """From the first text of the talk to a place in a later text of the same role: its header then heads that one."""
    if not talk or (excess := int(kept.sum()) - limit) <= 0:
        return
    start = talk[0].first
    stop = start
    for turn in talk:
        if turn.role != talk[0].role or turn.last > targets[-1] or turn.role == "assistant":
            continue
        stop = min(max(turn.first, start + excess), turn.last)
        if stop - start >= excess:
            break
    kept[start:stop] = False


def _drop(kept: NDArray[np.bool_], start: int, stop: int, limit: int, *, from_end: bool = False) -> None:
    """Mark tokens in [start, stop) as not kept, until `limit` are kept in all."""
    excess = int(kept.sum()) - limit
    if excess > 0 and stop > start:
        own = start + np.flatnonzero(kept[start:stop])
        kept[own[-excess:] if from_end else own[:excess]] = False


def _by_role(removed: NDArray[np.int64], turns: Sequence[Turn]) -> dict[str, int]:
    """How many of these tokens belong to each role. What follows a text belongs to it."""
    firsts = np.asarray([turn.first for turn in turns], np.int64)
    owners = np.searchsorted(firsts, removed, side="right") - 1
    return dict(Counter(turns[max(owner, 0)].role for owner in owners.tolist()))


def _window(whole: Example, start: int, stop: int, *, new: int) -> Example:
    """Tokens [start, stop), trained and counted from `new` on."""
    target, flags = whole.target[start:stop].copy(), whole.flags[start:stop].copy()
    target[: new - start] = 0.0
    flags[: new - start] = 0
    return whole._replace(input_ids=whole.input_ids[start:stop], target=target, flags=flags, start=start)
