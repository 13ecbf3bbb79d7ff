"""`make method-matrix`: which cells of methods and objectives the tests hold, from the tests that pytest collects.

    python benchmarks/method_matrix.py             what CI tries, what `make parity-full` does, what is refused (-)
    python benchmarks/method_matrix.py families    what each method does on model families: every cell is walked anew

A kind or a variant without its cells is not blank here: tests/parity and tests/unit/model/methods fail for it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("tests/support", "tests/parity", "platform")]

import pytest  # noqa: E402
from method_rows import METHODS, TOLERANCE, make_any_base, method_of, walk  # noqa: E402

FAMILIES = (
    *(
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "gemma3",
        "phi",
        "phi3",
        "olmo",
        "olmo2",
    ),
    *("gpt2", "gpt_neox", "opt", "falcon", "bloom", "cohere2", "granite", "mamba"),
    *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3"),
    *("bert", "roberta", "distilbert", "modernbert", "deberta-v2"),
)
WHERE = ("tests/parity/test_method_matrix.py", "tests/parity/test_objectives.py")
Table = dict[str, dict[str, str]]


class Collected:
    """What pytest finds, which runs nothing."""

    def __init__(self) -> None:
        self.cells: dict[str, Table] = defaultdict(lambda: defaultdict(dict))

    def pytest_collection_modifyitems(self, items: Sequence[pytest.Item]) -> None:
        """Each test with a `name` and another parameter is a cell: CI's, or one that is marked `full`."""
        for item in items:
            parameters = dict(item.callspec.params) if isinstance(item, pytest.Function) and "[" in item.name else {}
            name = parameters.pop("name", None)
            if name is not None and len(parameters) == 1:
                ((axis, value),) = parameters.items()
                column = f"ZeRO {value}" if axis == "zero" else str(value)
                self.cells[item.name.partition("[")[0]][name][column] = (
                    "full" if item.get_closest_marker("full") else "CI"
                )


def main() -> int:
    """0, or 1 where a family differs from plain libraries."""
    if sys.argv[1:2] == ["families"]:
        return families(sys.argv[2:] or FAMILIES)
    found = Collected()
    places = [str(ROOT / place) for place in WHERE]
    pytest.main(["--collect-only", "-q", "-q", "-m", "full or not full", *places], plugins=[found])
    for test, table in found.cells.items():
        print(f"\n{test}\n")
        print(as_table(table))
    return 0


def as_table(table: Table) -> str:
    """Markdown; a cell that no test has is refused by name."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    lines = [("", *columns), ("---",) * (len(columns) + 1)]
    lines += [(name, *(row.get(column, "-") for column in columns)) for name, row in table.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def families(types: Iterable[str]) -> int:
    """One line a cell, then the table: the largest relative difference of logits, or a number for a refusal."""
    began, table, notes, wrong = time.monotonic(), {}, [], []
    for model_type in types:
        row = table[f"`{model_type}`"] = {}
        with tempfile.TemporaryDirectory() as directory:
            base = Path(directory) / "base"
            is_encoder = make_any_base(model_type, base)
            for number, name in enumerate(METHODS):
                try:
                    found = walk(
                        base, Path(directory) / str(number), method_of(model_type, name), is_encoder=is_encoder
                    )
                except Exception as error:  # whatever a library raises where nothing was refused
                    row[name] = "CRASH"
                    wrong.append(f"{model_type}, {name}: {type(error).__name__}: {error}")
                    continue
                if found.refused:
                    what = found.refused.partition(" | ")[0]
                    notes += [] if what in notes else [what]
                    row[name] = f"({notes.index(what) + 1})"
                else:
                    row[name] = f"{found.worst:.0e}"
                    wrong += [f"{model_type}, {name}: {found.worst:.1e}"] if found.worst > TOLERANCE else []
        print(model_type, " ".join(row.values()), flush=True)
    print("\n" + as_table(table) + "\n")
    print("\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)))
    cells = [cell for row in table.values() for cell in row.values()]
    refused = sum(cell.startswith("(") for cell in cells)
    print(f"\n{len(cells)} cells: {len(cells) - refused - len(wrong)} as plain libraries, {refused} refused, "
          f"{len(wrong)} wrong; {time.monotonic() - began:.0f} s")  # fmt: skip
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
