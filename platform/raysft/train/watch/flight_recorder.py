"""Which collective each rank entered last, by torch's flight recorder, and from it the rank that did not arrive.

The recorder keeps the newest collectives of a process, of NCCL and of gloo, where TORCH_FR_BUFFER_SIZE says how many
(https://docs.pytorch.org/tutorials/unstable/flight_recorder_tutorial.html). Its JSON is read, never its pickle.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch._C import _distributed_c10d


@dataclass(frozen=True)
class Missing:
    """Ranks that others wait for."""

    ranks: tuple[int, ...]
    operation: str
    """What the others wait in: `gloo:all_reduce`."""
    sequence: int
    """Number of that collective in its process group, from 1."""
    group: str

    def __str__(self) -> str:
        who = f"rank {self.ranks[0]}" if len(self.ranks) == 1 else f"ranks {', '.join(map(str, self.ranks))}"
        return f"{who} did not arrive at {self.operation} no. {self.sequence} of {self.group}, where the others wait"


def dump() -> bytes:
    """What this process has recorded, as JSON; empty collectives where the recorder is off."""
    recorder: Any = _distributed_c10d  # whose stub lacks the name
    return bytes(recorder._dump_fr_trace_json(True, False))


def missing(traces: Mapping[int, bytes], num_ranks: int) -> Missing | None:
    """Who did not arrive, by the traces of the ranks that left one; None: nobody waits, or all have arrived.

    In a group, the ranks whose last collective comes before the one that another waits in. A rank without a trace
    (it was stopped, or its node is gone) counts as one that did not arrive, where the group has all ranks.
    """
    last: dict[str, dict[int, int]] = defaultdict(dict)
    waits: dict[str, tuple[int, str]] = {}
    for rank, text in traces.items():
        for entry in _entries(text):
            number, title = entry["process_group"]
            group, sequence = str(title or number), int(entry["collective_seq_id"])
            last[group][rank] = max(last[group].get(rank, 0), sequence)
            if not entry["retired"]:
                waits[group] = max(waits.get(group, (0, "")), (sequence, str(entry["profiling_name"])))
    for group, (sequence, operation) in sorted(waits.items(), key=lambda item: -len(last[item[0]])):
        reached = last[group]
        late = {rank for rank, number in reached.items() if number < sequence}
        if len(reached) == len(traces):  # a group of all ranks
            late |= set(range(num_ranks)) - set(reached)
        if late and len(late) < num_ranks:
            return Missing(tuple(sorted(late)), operation, sequence, group)
    return None


def _entries(text: bytes) -> list[dict[str, Any]]:
    """The collectives of a trace; none where it is torn."""
    try:
        found = json.loads(text)["entries"]
        return [entry for entry in found if not entry["is_p2p"]]
    except (ValueError, KeyError, TypeError):
        return []
