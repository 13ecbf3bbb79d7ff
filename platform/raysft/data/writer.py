"""A token store being written: counts, windows, parts, and last the manifest.

Samples come in order; every 16,384 of them are a window, which a Ray task packs and writes as one part. Names
and bytes depend on the samples alone, so a rerun after a failure rewrites the same. Driver side.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raysft.data.sources import SourceFile, describe_line
from raysft.data.stage import write_window
from raysft.data.store import read_manifest, write_manifest
from raysft.errors import DataError, RaysftError
from raysft.storage import join, write_bytes

WINDOW = 16_384
MAX_PROMPTS = 1024
_PARTS_IN_FLIGHT = 4
_EXAMPLES_PER_REASON = 5


class StoreWriter:
    """One store. `identity` is its fingerprint and the fingerprint's inputs."""

    def __init__(
        self, location: str, identity: Mapping[str, Any], files: Sequence[SourceFile], max_tokens: int
    ) -> None:
        self.location, self.identity, self.files = location, identity, files
        self.max_tokens = max_tokens
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._refusals: dict[str, list[dict[str, Any]]] = {}
        self._prompts: list[dict[str, Any]] = []
        self._window: list[pa.Table] = []
        self._num_waiting = 0
        self._parts: list[Any] = []

    @property
    def _is_eval(self) -> bool:
        return bool(self.identity["inputs"]["side"] == "eval")

    def add(self, table: pa.Table, *, fail_on_bad_record: bool) -> None:
        """Count samples (a table of stage.ENCODED) and put the examples into windows."""
        accepted = pc.is_null(table.column("reason"))
        refusals = table.filter(pc.invert(accepted)).select(["sample_id", "reason", "detail", "bad_record"])
        for refusal in refusals.to_pylist():
            self._refuse(refusal, fail_on_bad_record)
        examples = table.filter(accepted)
        self._counts["records_read"] += len(table)
        self._counts["examples"] += len(examples)
        for name in ("truncated", "straddles"):
            self._counts[name] += pc.sum(examples.column(name)).as_py() or 0
        if self._is_eval and len(self._prompts) < MAX_PROMPTS:
            prompts = examples.select(["sample_id", "prompt", "answer"])
            self._prompts += prompts.slice(0, MAX_PROMPTS - len(self._prompts)).to_pylist()
        self._window.append(examples.select(["sample_id", "input_ids", "target"]))
        self._num_waiting += len(examples)
        while self._num_waiting >= WINDOW:
            joined = pa.concat_tables(self._window)
            self._submit(joined.slice(0, WINDOW))
            self._window, self._num_waiting = [joined.slice(WINDOW)], self._num_waiting - WINDOW

    def finish(self) -> dict[str, Any]:
        """Write what is left, the prompts, and last the manifest. Raises DataError when there is nothing."""
        if not self._counts["examples"]:
            raise self._nothing_left()
        if self._num_waiting:
            self._submit(pa.concat_tables(self._window))
        try:
            parts: list[dict[str, Any]] = ray.get(self._parts)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RaysftError):
                raise error.cause from None
            raise
        if self._is_eval:
            lines = "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in self._prompts)
            write_bytes(join(self.location, "prompts.jsonl"), lines.encode())
        write_manifest(self.location, self._manifest(parts))
        return read_manifest(self.location) or {}

    def _refuse(self, refusal: Mapping[str, Any], fail: bool) -> None:
        reason, detail = refusal["reason"], refusal["detail"]
        if fail and refusal["bad_record"]:
            raise DataError(
                f"a bad record at {describe_line(refusal['sample_id'], self.files)}",
                got=f"{reason}: {detail}",
                expected="only good records, because data.on_bad_record is `fail`",
                fix="correct the record, or set data.on_bad_record: refuse to count and skip it",
            )
        self._refused[reason] += 1
        examples = self._refusals.setdefault(reason, [])
        if len(examples) < _EXAMPLES_PER_REASON:
            examples.append({"where": describe_line(refusal["sample_id"], self.files), "detail": detail})

    def _submit(self, window: pa.Table) -> None:
        """The task takes no CPU: encoders that wait for us may hold them all."""
        if len(self._parts) >= _PARTS_IN_FLIGHT:
            ray.wait([self._parts[-_PARTS_IN_FLIGHT]])
        write = ray.remote(write_window).options(num_cpus=0)
        index = len(self._parts)
        self._parts.append(write.remote(self.location, index, window.combine_chunks(), self.max_tokens))

    def _manifest(self, parts: list[dict[str, Any]]) -> dict[str, Any]:
        total = {key: sum(part[key] for part in parts) for key in ("tokens", "target_tokens", "rows")}
        return {
            **self.identity,
            "parent": None,
            "max_tokens": self.max_tokens,
            "tokenizer_hash": self.identity["inputs"]["tokenizer"],
            "template_hash": self.identity["inputs"]["template"],
            "files": [file.location for file in self.files],
            "counts": {
                **{key: self._counts[key] for key in ("records_read", "examples", "truncated", "straddles")},
                **total,
                "refused": dict(self._refused),
                "target_tokens_by_role": {"assistant": total["target_tokens"]},
                "fill": round(total["tokens"] / (total["rows"] * self.max_tokens), 6),
            },
            "refusals": self._refusals,
            "prompts": len(self._prompts),
            "parts": parts,
        }

    def _nothing_left(self) -> DataError:
        first = {reason: f"{found[0]['where']}: {found[0]['detail']}" for reason, found in self._refusals.items()}
        reasons = [f"{count} x {reason} (first: {first[reason]})" for reason, count in self._refused.most_common()]
        share = self.identity["inputs"]["held_out"]
        if not self._counts["records_read"] and 0 < share < 1:
            return DataError(
                "no sample is held out" if self._is_eval else "every sample is held out",
                got=f"data.eval_fraction {share} of few prompts",
                expected="at least one sample on each side",
                fix="change data.eval_fraction, or name held-out files in data.eval",
            )
        return DataError(
            f"no sample is left of {self._counts['records_read']} records",
            got="; ".join(reasons) or "files without a record",
            expected="records of a known format that fit the template and data.max_tokens",
            fix="see the first example of each reason; set data.format, data.columns or data.max_tokens",
        )
