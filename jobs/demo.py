"""`make demo`: make instruction data, train, evaluate before and after, export, answer three new prompts.

One call of every part of the house, with no download: see jobs/recipes/demo.yaml for the run itself.
"""

import json
import logging
import os
import random
import shutil
import sys
from pathlib import Path

HERE = Path("build/demo")
NUM_SAMPLES = 40_000
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # capitals: no merge of the tokenizer (as in "user") falls on them


def main() -> int:
    """Returns 0 when at least 90% of 200 unseen words are reversed exactly."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before the imports below: they look at it
    from raysft.cli import main as raysft
    from raysft.data.text.tokenizer import train_tokenizer
    from raysft.evaluate.exported import load_exported
    from raysft.evaluate.generation import answer_prompts
    from raysft.recipe.load import load_recipe
    from raysft.run.run import run_training

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
    train_tokenizer([str(data)], columns={}, vocab_size=280, template="chatml", out=str(HERE / "tokenizer"))
    recipe = "jobs/recipes/demo.yaml"
    raysft(["preview", recipe, "--num", "2"])
    result = run_training(load_recipe(recipe))

    model, tokenizer = load_exported(result.exports[-1])
    new = ["RAYLET", "GRADIENT", "PLATFORM"]
    chats = [[{"role": "user", "content": f"Reverse {word}"}] for word in new]
    prompts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in chats]
    for word, answer in zip(
        new, answer_prompts(model, tokenizer, prompts, max_new_tokens=16, batch_size=3), strict=True
    ):
        print(f"Reverse {word}  ->  {answer}")
    assert result.before is not None
    assert result.after is not None
    print(f"exact match  {result.before['exact_match']:.1%} before, {result.after['exact_match']:.1%} after")
    print(f"run          {result.run}\nreport       {result.report}")
    return 0 if result.after["exact_match"] >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
