"""`make models`: docs/guide/models.md, what raysft does with each causal family of the installed transformers.

Every row is made anew by tests/support/family_rows.py. Prints the rows as they come; a family that crashes ends it
with 1.
"""

from __future__ import annotations

import argparse
import datetime
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "platform")]

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from family_rows import EXPORT_TOLERANCE, TOLERANCE, NotCausalError, Row, make_row  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TYPES  # noqa: E402

from raysft.errors import RaysftError  # noqa: E402

PAGE = ROOT / "docs" / "guide" / "models.md"
LONGEST_S = 60
HEAD = """# Model families

Every causal family of the installed transformers that a tiny config can be made of, tried. This page is written by
`make models` (one process, no Ray), last on {date} with transformers {transformers}, peft {peft} and
torch {torch}; a part of it runs in CI (`tests/unit/model/test_families.py`). It does not tell how well a family
learns, and nothing of it ran on a GPU.

A row is one model of about 20,000 random weights that transformers alone makes and saves. Then, as in a run: the
driver's checks and its rehearsal, the loading, the start-up check, the first loss of three samples; all trained
weights are moved, exported, and loaded again by plain transformers and peft.

- **full**, **LoRA** (`all-linear`): `yes`, or the number of a note below.
- **first loss**: largest relative difference from plain transformers on each sample alone.
- **export**: largest relative difference of logits between the model in memory and what others load: `merged/` of
  both methods, and `adapter/`.
- **attention**: `segments` (raysft's own, no mask), `sdpa` or `eager` (transformers' with a block-diagonal mask).
- **packing**: `off` needs `data.packing: false`: layers that carry a state over the row, or a model whose code gives
  packed samples no mask. A run with packing is refused before its data are prepared.
- **pipeline**, **tensor**: what `parallel.pipeline` and `parallel.tensor` take; their parity tests are in
  `tests/parity`. ZeRO 0 to 3 are for all.

"""


def main() -> int:
    """Make the page, or only print some rows."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("types", nargs="*", help="model types; default: all, and the page is written")
    chosen = options.parse_args().types
    rows: list[Row] = []
    left: dict[str, str] = {}
    crashed: list[str] = []
    for model_type in chosen or TYPES:
        try:
            with _limited(), tempfile.TemporaryDirectory() as directory:
                row = make_row(model_type, Path(directory))
        except NotCausalError:
            left[model_type] = "no decoder: it sees what comes after"
        except TimeoutError:
            left[model_type] = f"no tiny config that is done within {LONGEST_S} s"
        except Exception as error:  # whatever a config raises that is not made for one so small
            told = " ".join(str(error).split())[:110].rstrip()
            if _is_ours(error):
                crashed.append(f"{model_type}: {type(error).__name__}: {told}")
                traceback.print_exc()
            left[model_type] = f"no tiny config: {type(error).__name__}: {told}"
        else:
            rows.append(row)
            allowed = {"first_loss": TOLERANCE, "export": EXPORT_TOLERANCE}
            wrong = [name for name, limit in allowed.items() if vars(row)[name] > limit]
            crashed += [f"{model_type}: {name} is off by {vars(row)[name]:.1e}" for name in wrong]
        print(model_type, left.get(model_type) or _cells(rows[-1], []), flush=True)
    if not chosen:
        PAGE.write_text(_page(rows, left), encoding="utf-8")
    limits = f"losses within {TOLERANCE:g}, exports within {EXPORT_TOLERANCE:g}"
    print("\n".join(crashed) or f"{len(rows)} families, none crashed; {limits}")
    return bool(crashed)


def _is_ours(error: Exception) -> bool:
    """Was raysft running? Making the tiny base is transformers' own."""
    names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    return "make_row" in names and not names & {"make_base", "plain_loss"} and not isinstance(error, RaysftError)


@contextmanager
def _limited() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)


def _page(rows: list[Row], left: dict[str, str]) -> str:
    notes: list[str] = []
    columns = ("type", "full", "LoRA", "first loss", "export", "attention", "packing", "pipeline", "tensor")
    lines = [columns, ("---",) * len(columns), *(_cells(row, notes) for row in rows)]
    versions = {"transformers": transformers.__version__, "peft": peft.__version__, "torch": torch.__version__}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    parts = [
        HEAD.format(date=date, **versions),
        f"{len(rows)} families; {sum(row.full == 'yes' for row in rows)} train full, "
        f"{sum(row.lora == 'yes' for row in rows)} with LoRA.\n\n",
        "\n".join("| " + " | ".join(line) + " |" for line in lines),
        "\n\n" + "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1)) if notes else "",
        "\n\n## Left out\n\nNot tried: what is no decoder by default, or what no tiny config was found for.\n\n",
        "\n".join(f"- `{name}`: {why}" for name, why in left.items()),
        "\n",
    ]
    return "".join(parts)


def _cells(row: Row, notes: list[str]) -> tuple[str, ...]:
    def told(text: str) -> str:
        if text == "yes":
            return text
        text = text.replace("|", "/")
        if text not in notes:
            notes.append(text)
        return f"{notes.index(text) + 1}"

    return (
        f"`{row.model_type}`",
        told(row.full),
        told(row.lora),
        f"{row.first_loss:.0e}" if row.first_loss == row.first_loss else "",
        f"{row.export:.0e}" if row.export == row.export else "",
        row.attention,
        row.packing.partition(":")[0],
        "yes" if row.pipeline else "",
        "yes" if row.tensor else "",
    )


if __name__ == "__main__":
    sys.exit(main())
