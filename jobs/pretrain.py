"""A small base model from your own text, trained by raysft: what a fine-tuning benchmark can begin with.

    python jobs/pretrain.py --out build/base --text wiki.txt c4.jsonl --questions gsm8k.jsonl

--text: plain text (.txt, or records with `text`), all of which is trained. --questions: records with `question` and
`answer`, so that the base knows the chat template, its end of a turn, and what an answer is. The tokenizer is trained
on all of it. jobs/recipes/base.yaml holds the rest. What is done is not done again: the same command goes on.
"""

import argparse
import logging
import sys
from pathlib import Path

import raysft

RECIPE = Path(__file__).parent / "recipes" / "base.yaml"
COLUMNS = {"instruction": "question", "output": "answer"}


def pretrain(out: Path, text: list[Path], questions: list[Path], vocab_size: int = 4000) -> str:
    """The export of the finished run; its tokenizer lies beside the run. Raises UserError."""
    tokenizer = out / "tokenizer"
    if not tokenizer.exists():
        raysft.train_tokenizer([*text, *questions], tokenizer, vocab_size=vocab_size, columns=COLUMNS)
    sources: list[dict[str, object]] = [{"path": str(path), "format": "text"} for path in text]
    sources += [{"path": str(path), "columns": COLUMNS} for path in questions]
    fields: dict[str, object] = {"storage": str(out), "model.tokenizer": str(tokenizer), "data.train": sources}
    run = raysft.train(raysft.load(RECIPE, fields))
    print(run)
    assert run.export is not None
    return run.export


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("raysft").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="+", default=[])
    parser.add_argument("--questions", type=Path, nargs="*", default=[])
    parser.add_argument("--vocab-size", type=int, default=4000)
    options = parser.parse_args()
    pretrain(options.out, options.text, options.questions, options.vocab_size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
