"""Axolotl's `train_detail` of a turn: which characters of its text are trained. Pure.

    [{begin_offset: 0, end_offset: 8, train: false}, {begin_offset: 9, end_offset: 18, train: true}]

Both offsets are of characters that belong to the range (axolotl, docs/dataset-formats/conversation.qmd and
get_offsets_for_train_detail). What no range names is not trained, and what one trains is.
"""

from __future__ import annotations

from typing import Any

from raysft.data.formats.values import RefusedError, is_empty, read_list, short_value
from raysft.data.records import TrainedParts

KEYS = ("train_detail", "training_detail")
_RANGE = frozenset(("begin_offset", "end_offset", "train"))


def read_parts(turn: dict[str, Any], role: str, content: str) -> TrainedParts | None:
    """None: the turn has no ranges. Raises RefusedError."""
    key = next((key for key in KEYS if not is_empty(turn.get(key))), None)
    if key is None:
        return None
    trained: list[tuple[int, int]] = []
    for given in read_list(turn[key], key):
        begin, end = _offsets(given, key)
        if given["train"]:
            trained.append((begin, min(end + 1, len(content))))
    if role != "assistant":
        if trained:
            raise RefusedError("trained_prompt", f"`{key}` trains parts of a turn of role {role}; only answers are")
        return None
    untrained: list[tuple[int, int]] = []
    place = 0
    for begin, end in sorted(trained):
        if begin > place:
            untrained.append((place, min(begin, len(content))))
        place = max(place, end)
    if place < len(content):
        untrained.append((place, len(content)))
    return TrainedParts(content, tuple(untrained))


def _offsets(given: Any, key: str) -> tuple[int, int]:
    if isinstance(given, dict) and given.keys() == _RANGE and isinstance(given["train"], bool):
        begin, end = given["begin_offset"], given["end_offset"]
        if type(begin) is int and type(end) is int and 0 <= begin <= end:
            return begin, end
    raise RefusedError(
        "wrong_type",
        f"`{key}` needs {{begin_offset, end_offset, train}}, offsets of characters, got {short_value(given)}",
    )
