"""`make demo`: make instruction data, train, evaluate before and after, export, answer three new prompts.

One call of every part of the house, with no download: see jobs/recipes/demo.yaml for the run itself.
"""

import json
import logging
import random
import shutil
import sys
from pathlib import Path

import raysft

HERE = Path("build/demo")
NUM_SAMPLES = 40_000
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # capitals: no merge of the tokenizer (as in "user") falls on them


def main() -> int:
    """Returns 0 when at least 90% of 200 unseen words are reversed exactly."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("raysft").setLevel(logging.INFO)
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir(parents=True)
    draw = random.Random(0)
    words = sorted({"".join(draw.choices(LETTERS, k=draw.randint(4, 8))) for _ in range(NUM_SAMPLES)})
    draw.shuffle(words)
    data = HERE / "reverse.jsonl"
    with data.open("w") as stream:
        for word in words:
            stream.write(json.dumps({"instruction": f"Reverse {word}", "output": word[::-1]}) + "\n")
    print(f"made {len(words):,} instructions: {data}")
    raysft.train_tokenizer([data], HERE / "tokenizer", vocab_size=280)

    recipe = raysft.load("jobs/recipes/demo.yaml")
    print(raysft.preview(recipe, 2))
    run = raysft.train(recipe)

    new = ["RAYLET", "GRADIENT", "PLATFORM"]
    for word, answer in zip(
        new, run.model().answer([f"Reverse {word}" for word in new], max_new_tokens=16), strict=True
    ):
        print(f"Reverse {word}  ->  {answer}")
    assert run.before is not None
    assert run.evaluation is not None
    before, after = (found["held_out/exact_match"] for found in (run.before, run.evaluation))
    print(f"exact match  {before:.1%} before, {after:.1%} after")
    print(f"run          {run.location}\nreport       {run.report}")
    return 0 if after >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
