"""The columns of encoded samples, as shards hold them."""

from __future__ import annotations

import pyarrow as pa

from raysft.data.text.fitting import COUNTED

SAMPLES = (
    pa.field("sample_id", pa.int64()),
    pa.field("held_out", pa.bool_()),
    pa.field("input_ids", pa.list_(pa.int32())),
    pa.field("target", pa.list_(pa.uint8())),  # 1: trained
    pa.field("weight", pa.float32()),
    pa.field("num_tokens", pa.int32()),
    pa.field("num_targets", pa.int32()),
    *(pa.field(name, pa.int32()) for name in COUNTED),
    pa.field("truncated", pa.bool_()),
    pa.field("plain_text", pa.bool_()),
    pa.field("group", pa.string()),  # the value of mixture.balance_by
    pa.field("value", pa.float64()),  # of mixture.curriculum
    pa.field("prompt", pa.string()),  # held-out samples only
    pa.field("answer", pa.string()),
)
"""Columns of every sample; after them come `segments` where samples are atoms of several, what records say
beside their text, and the keys that whole-data rules need."""
SEGMENTS = pa.field("segments", pa.list_(pa.int32()))
"""Tokens of the samples of an atom, which lie behind each other in input_ids and target."""
