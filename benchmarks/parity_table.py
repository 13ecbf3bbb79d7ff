"""`make bench-parity`: how far every split of one recipe is from the first, over 20 steps. Prints Markdown."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity"))
os.environ["HF_HUB_OFFLINE"] = "1"

from material import make_samples, make_store, make_tokenizer, recipe_fields
from processes import EngineProcesses


def furthest(ours: list[float], theirs: list[float]) -> float:
    """Largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Every ZeRO stage x workers x micro-batch in fp32; bf16 against its own first cell."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        store = make_store(directory, make_tokenizer(directory / "tokenizer"), make_samples())
        groups = {size: EngineProcesses(size, directory) for size in (1, 2)}
        try:
            print(
                "| precision | workers | ZeRO | micro-batch | loss, largest relative difference | gradient norm | s |"
            )
            print("|---|---|---|---|---|---|---|")
            for precision in ("fp32", "bf16"):
                base = None
                for workers, group in groups.items():
                    for zero in range(4):
                        for micro in (1, 2, 4):
                            changes = {"train__precision": precision, "train__micro_batch_rows": micro}
                            changes |= {"cluster__workers": workers, "parallel__zero": zero}
                            fields = recipe_fields(str(directory / "tokenizer"), **changes)
                            started = time.perf_counter()
                            result = group.run({"recipe": fields, "store": store})[0]
                            base = base or result
                            loss = furthest(result["losses"], base["losses"])
                            norm = furthest(result["norms"], base["norms"])
                            spent = time.perf_counter() - started
                            cells = (precision, workers, zero, micro, f"{loss:.1e}", f"{norm:.1e}", f"{spent:.1f}")
                            print("| " + " | ".join(map(str, cells)) + " |")
        finally:
            for group in groups.values():
                group.close()


if __name__ == "__main__":
    main()
