"""What a Ray task of `prepare` does: one read task -> a table of encoded samples; one window -> one part.

No Ray here, so the same functions run in a test or in this process. Nothing is raised for a bad record:
refusals are rows with a reason. Even a RaysftError is a row (`failure`), which the driver raises as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from raysft.data.chat import Example, encode
from raysft.data.formats import to_conversation
from raysft.data.packing import pack
from raysft.data.records import Conversation, Refusal
from raysft.data.rendering import Template, render_prompt
from raysft.data.sources import RawRecord, ReadTask, read
from raysft.data.store import write_part
from raysft.data.tokenizer import load_tokenizer
from raysft.errors import DataError, ModelError, RaysftError, StorageError
from raysft.recipe.schema import DataSection

ENCODED = pa.schema(
    [
        ("sample_id", pa.int64()),
        ("held_out", pa.bool_()),
        ("input_ids", pa.list_(pa.int32())),
        ("target", pa.list_(pa.float32())),
        ("straddles", pa.int32()),
        ("truncated", pa.bool_()),
        ("prompt", pa.string()),  # held-out samples only
        ("answer", pa.string()),
        ("reason", pa.string()),  # null: an example
        ("detail", pa.string()),
        ("bad_record", pa.bool_()),  # refused as a record, before templates and lengths
        ("failure", pa.string()),
    ]
)
_BATCH = 256
_ERRORS = {kind.__name__: kind for kind in (DataError, ModelError, StorageError)}


@dataclass(frozen=True)
class EncodeStage:
    """Everything a task needs to know. `held_out` is the share of samples that are held out; 1: all."""

    tokenizer: str
    revision: str | None
    trust_remote_code: bool
    template: Template
    data: DataSection
    held_out: float


def encode_task(task: ReadTask, stage: EncodeStage) -> Iterator[pa.Table]:
    """Tables of ENCODED, in the order of the records."""
    try:
        tokenizer = _tokenizer(stage.tokenizer, stage.revision, stage.trust_remote_code)
        records = read(task)
        while batch := list(islice(records, _BATCH)):
            rows = _encode_batch(batch, task.file.location, tokenizer, stage)
            yield pa.Table.from_pylist(rows, schema=ENCODED)
    except RaysftError as error:
        text = json.dumps([type(error).__name__, error.what, error.got, error.expected, error.fix])
        yield pa.Table.from_pylist([{"failure": text}], schema=ENCODED)


def raised(failure: str) -> RaysftError:
    """The error that a task put into its table."""
    kind, what, got, expected, fix = json.loads(failure)
    return _ERRORS.get(kind, DataError)(what, got=got, expected=expected, fix=fix)


def write_window(location: str, index: int, examples: pa.Table, max_tokens: int) -> dict[str, Any]:
    """Pack one window of samples and write it as part `index`; returns the part's manifest entry."""
    examples = examples.select(["sample_id", "input_ids", "target"]).combine_chunks()
    lengths = examples.column("input_ids").combine_chunks().value_lengths().to_numpy()
    return write_part(location, index, examples, pack(lengths, max_tokens))


def is_held_out(conversation: Conversation, share: float) -> bool:
    """By a hash of everything before the last answer: one prompt never lies on both sides."""
    if share in (0, 1):
        return share == 1
    prompt = [
        [message.role, message.content, message.tool_calls]
        for message in conversation.messages[: conversation.last_assistant]
    ]
    digest = hashlib.sha256(json.dumps([prompt, conversation.tools], sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@lru_cache(maxsize=2)
def _tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    return load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)


def _encode_batch(
    batch: list[RawRecord], source: str, tokenizer: PreTrainedTokenizerFast, stage: EncodeStage
) -> list[dict[str, Any]]:
    conversations: list[Conversation] = []
    rows: list[dict[str, Any]] = []
    data = stage.data
    for raw in batch:
        value: Conversation | Refusal = (
            raw.value
            if isinstance(raw.value, Refusal)
            else to_conversation(raw.value, id=raw.sample_id, source=source, format=data.format, columns=data.columns)
        )
        if isinstance(value, Refusal):
            refusal = {"reason": value.reason, "detail": _valid(value.detail), "bad_record": True}
            rows.append({"sample_id": raw.sample_id, "held_out": stage.held_out == 1, **refusal})
        else:
            rows.append({"sample_id": raw.sample_id, "held_out": is_held_out(value, stage.held_out)})
            conversations.append(value)
    results = encode(
        conversations,
        tokenizer,
        stage.template,
        train_on=data.train_on,
        max_tokens=data.max_tokens,
        over_long=data.over_long,
    )
    waiting = (row for row in rows if "reason" not in row)
    for row, conversation, result in zip(waiting, conversations, results, strict=False):
        row.update(_columns(result))
        if row["held_out"] and isinstance(result, Example):
            row["prompt"] = render_prompt(conversation, stage.template)
            row["answer"] = _valid(conversation.messages[conversation.last_assistant].content)
    return rows


def _columns(result: Example | Refusal) -> dict[str, Any]:
    if isinstance(result, Refusal):
        return {"reason": result.reason, "detail": _valid(result.detail), "bad_record": False}
    return {
        "input_ids": result.input_ids,
        "target": result.target,
        "straddles": result.straddles,
        "truncated": result.truncated,
    }


def _valid(text: str) -> str:
    """Text that Arrow can hold: lone surrogates replaced."""
    return text.encode(errors="replace").decode()
