"""A token store on disk with prompts, and somebody who answers them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fakes import FakeStore

from raysft.data.store.manifest import write_manifest
from raysft.data.store.packed_rows import pack_rows
from raysft.data.store.parts import write_part, write_prompts
from raysft.evaluate.sampling import Sampling


def write_store(location: Path, store: FakeStore, prompts: list[dict[str, Any]]) -> None:
    """The same rows as a store on disk; every segment is one line."""
    lines: dict[str, list[Any]] = {"sample_id": [], "input_ids": [], "target": []}
    atoms, next_line = [], 0
    for row in store.rows:
        borders = np.cumsum(row.segment_fields["length"])[:-1]
        lines["sample_id"] += row.segment_fields["sample_id"].tolist()
        for field, kind in (("input_ids", np.int32), ("target", np.uint8)):
            lines[field] += [piece.astype(kind) for piece in np.split(row.token_fields[field], borders)]
        atoms.append(np.arange(next_line, next_line + len(borders) + 1))
        next_line += len(borders) + 1
    table = pa.table({**lines, "weight": [1.0] * next_line})
    part = write_part(str(location), 0, pack_rows(table, atoms))
    sha256 = write_prompts(str(location), prompts)
    write_manifest(str(location), {"parts": [part], "max_tokens": 64, "prompts_sha256": sha256})


class Parrot:
    """Answers every prompt with its own text."""

    def load(self, location: str) -> None:
        raise AssertionError("nothing is loaded here")

    def generate(self, prompts: Sequence[str], how: Sampling, *, first: int = 0) -> list[str]:
        assert how == HOW
        assert prompts[0] == f"q{first}"
        return list(prompts)


HOW = Sampling(5)
