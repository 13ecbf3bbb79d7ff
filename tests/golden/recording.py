"""losses.json: what was recorded, on which machine; and what of it must be met bit for bit on this one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).with_name("losses.json")
TOLERANCE = 1e-6
"""Relative, where another processor or another library computes."""

WIDER = {"full, bf16, ZeRO 2": 1e-2}
"""Of cells whose numbers are rounded to 8 bits."""


def facts() -> dict[str, Any]:
    """What bits depend on: versions of what computes, and the processor, by which its kernels are chosen."""
    with open("/proc/cpuinfo") as file:
        lines = (line.partition(":") for line in file)
        processor = {name.strip(): value.strip() for name, _, value in lines}
    wanted = ("avx", "fma", "amx", "f16c")
    return {
        **{name: version(name) for name in ("torch", "deepspeed", "transformers", "peft", "numpy")},
        "vector_units": torch.backends.cpu.get_cpu_capability(),
        "processor": " ".join(processor.get(name, "?") for name in ("vendor_id", "cpu family", "model")),
        "flags": [flag for flag in sorted(processor.get("flags", "").split()) if flag.startswith(wanted)],
    }


@dataclass(frozen=True)
class Recording:
    """What losses.json holds."""

    facts: dict[str, Any]
    cells: dict[str, dict[str, Any]]
    """{cell: {losses, norms, held_out: hex floats; weights: sha256}}."""

    @staticmethod
    def read() -> Recording:
        return Recording(**json.loads(FILE.read_text())) if FILE.exists() else Recording(facts(), {})

    def write(self) -> None:
        FILE.write_text(json.dumps({"facts": self.facts, "cells": self.cells}, indent=1) + "\n")

    def foreign(self) -> list[str]:
        """How this machine differs from the one of the recording. Empty: bits must be the same."""
        here = facts()
        return [
            f"{key}: {self.facts[key]} then, {here[key]} here" for key in here if self.facts.get(key) != here[key]
        ]

    def misses(self, cell: str, found: dict[str, Any]) -> list[str]:
        """Where `found` is not what was recorded of the cell. Empty: all of it is."""
        recorded = self.cells[cell]
        tolerance = WIDER.get(cell, TOLERANCE) if self.foreign() else 0.0
        missed = []
        for key in ("losses", "norms", "held_out"):
            if len(found[key]) != len(recorded[key]):
                missed.append(f"{key}: {len(found[key])} of them, {len(recorded[key])} recorded")
            for place, (ours, theirs) in enumerate(zip(found[key], recorded[key], strict=False)):
                a, b = float.fromhex(ours), float.fromhex(theirs)
                if not abs(a - b) <= tolerance * abs(b):
                    missed.append(
                        f"{key}[{place}]: {ours} ({a}), recorded {theirs} ({b}), {abs(a - b) / abs(b):.1e} off"
                    )
        if not tolerance and found["weights"] != recorded["weights"]:
            missed.append(f"weights: {found['weights']}, recorded {recorded['weights']}")
        return missed
