"""Critique tuning against `sft` at equal tokens, on sums whose solutions have planted errors (arXiv:2501.17703).

    python benchmarks/critique.py --base build/base [--folder build/critique] [--seeds 3] [--tokens 100000]

--base: what jobs/pretrain.py left. It first learns to answer from right solutions; then three go on from there,
each with --tokens of the same other sums: `sft` on right solutions; `sft` on solutions of which half have a planted
error, as the paper's baseline; `cft` on critiques of these. Told, for each seed (of the sums, their errors and the
training): right answers to 200 held-out sums, greedy, by plain transformers. And of `cft`, what it is trained for:
right verdicts on 200 held-out solutions, of which half have an error.
"""

from __future__ import annotations

import argparse
import functools
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from statistics import fmean, stdev

from alone import Cells, Fields, export_alone, fields_of, quiet, stores_of, train_alone, write_records
from transformers import AutoModelForCausalLM, AutoTokenizer

from raysft.metrics.final_answer import final_answer

PROMPT = (
    "Please critique whether the following solution to the question is correct.\n\n"
    "Question:\n{question}\n\nSolution:\n{solution}"
)
"""What the format `critique` makes of a record, after the paper."""
HELD_OUT, COLUMNS = 200, {"instruction": "question", "output": "answer"}
TRAIN = {"rows_per_step": 4, "micro_batch_rows": 4, "precision": "fp32"}
ARMS = {"sft": "right solutions", "sft-noisy": "solutions, half with an error", "cft": "critiques of these"}


def sums(draw: random.Random, count: int) -> Iterator[list[int]]:
    """Four numbers each, all unlike."""
    seen: set[tuple[int, ...]] = set()
    while len(seen) < count:
        numbers = tuple(draw.randint(1, 9) for _ in range(4))
        if numbers not in seen:
            seen.add(numbers)
            yield list(numbers)


def question(numbers: list[int]) -> str:
    return f"What is {' + '.join(map(str, numbers))}?"


def partial_sums(numbers: list[int]) -> list[int]:
    return list(accumulate(numbers))[1:]


def solution(numbers: list[int], partial: list[int]) -> str:
    steps = zip([numbers[0], *partial], numbers[1:], partial, strict=False)
    return f"{' '.join(f'{left} + {right} = {total}.' for left, right, total in steps)} #### {partial[-1]}"


def told_sums(draw: random.Random, numbers: list[int]) -> list[int]:
    """The partial sums of a solution that is wrong from one step on, in half of the cases."""
    right = partial_sums(numbers)
    if draw.random() < 0.5:
        return right
    place, off = draw.randrange(len(right)), draw.choice([-2, -1, 1, 2])
    return [value + (off if i >= place else 0) for i, value in enumerate(right)]


def critique_of(numbers: list[int], told: list[int]) -> str:
    """Which step is wrong, and what it comes to."""
    right = partial_sums(numbers)
    for i, (is_right, found) in enumerate(zip(right, told, strict=True)):
        if is_right != found:
            left = [numbers[0], *told][i]
            return (
                f"Step {i + 1} is wrong: {left} + {numbers[i + 1]} = {right[i]}. {solution(numbers, right)} "
                "Conclusion: wrong [END]"
            )
    return f"{solution(numbers, right)} Conclusion: right [END]"


def write_sums(folder: Path, seed: int) -> tuple[dict[str, Path], list[list[int]]]:
    """({what is trained: its records}, the held-out sums)."""
    draw = random.Random(seed)
    drawn = list(sums(draw, 5000 + HELD_OUT))
    begin, others, held_out = drawn[:2000], drawn[2000:5000], drawn[5000:]
    told = [told_sums(draw, numbers) for numbers in others]
    noisy = [(numbers, solution(numbers, one), one) for numbers, one in zip(others, told, strict=True)]
    records = {
        "begin": [{"question": question(n), "answer": solution(n, partial_sums(n))} for n in begin],
        "sft": [{"question": question(n), "answer": solution(n, partial_sums(n))} for n in others],
        "sft-noisy": [{"question": question(n), "answer": text} for n, text, _ in noisy],
        "cft": [
            {"question": question(n), "noisy_answer": text, "critique": critique_of(n, one)} for n, text, one in noisy
        ],
    }
    files = {name: write_records(folder / f"sums.{seed}.{name}.jsonl", part) for name, part in records.items()}
    return files, held_out


def answers(model: Path, tokenizer_path: Path, prompts: Sequence[str], length: int) -> list[str]:
    """Greedy ones, by plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    loaded, found = AutoModelForCausalLM.from_pretrained(model).eval(), []
    for first in range(0, len(prompts), 50):
        talks = [[{"role": "user", "content": text}] for text in prompts[first : first + 50]]
        texts = [tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in talks]
        batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        ids = loaded.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=length,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        found += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return found


def share_right(model: Path, tokenizer: Path, held_out: list[list[int]]) -> float:
    found = answers(model, tokenizer, [question(numbers) for numbers in held_out], 64)
    return fmean(final_answer(text) == sum(numbers) for text, numbers in zip(found, held_out, strict=True))


def verdicts_right(model: Path, tokenizer: Path, held_out: list[list[int]], seed: int) -> float:
    draw = random.Random(seed)
    told = [told_sums(draw, numbers) for numbers in held_out]
    prompts = [
        PROMPT.format(question=question(numbers), solution=solution(numbers, one))
        for numbers, one in zip(held_out, told, strict=True)
    ]
    found = answers(model, tokenizer, prompts, 96)
    is_right = [one == partial_sums(numbers) for numbers, one in zip(held_out, told, strict=True)]
    return fmean(f"Conclusion: {'right' if r else 'wrong'}" in text for text, r in zip(found, is_right, strict=True))


def trained(
    fields: Fields, stores: Fields, tokens: int, held_out: list[list[int]], tokenizer: Path, run: Path
) -> Fields:
    """As many whole steps as come nearest to the tokens."""
    counts, seed = stores["counts"], fields["seed"]
    fields["train"]["max_steps"] = round(
        tokens / (counts["tokens"] / counts["rows"]) / fields["train"]["rows_per_step"]
    )
    found = train_alone(fields, stores, run)
    model = export_alone(fields, run)["merged"]
    found["right"] = share_right(model, tokenizer, held_out)
    if fields["data"].get("format") == "critique":
        found["verdicts"] = verdicts_right(model, tokenizer, held_out, seed)
    verdicts = f", {found['verdicts']:.1%} of verdicts" if "verdicts" in found else ""
    return found | {"told": f"{found['tokens']:,} tokens, {found['right']:.1%} of answers right{verdicts}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/critique"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--begin", type=int, default=100_000, help="tokens of right solutions that all begin with")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    quiet()
    cells, home = Cells(options.folder.absolute(), options.processes), options.base.absolute()
    tokenizer, seeds = home / "tokenizer", range(1, options.seeds + 1)
    written = {seed: write_sums(cells.folder, seed) for seed in seeds}
    base = home / "runs" / "base" / "export" / "merged"

    def recipe(arm: str, seed: int, source: Path) -> Fields:
        data: Fields = {"format": "critique"} if arm == "cft" else {"columns": COLUMNS}
        found = fields_of(source, tokenizer, written[seed][0][arm], None, data=data, seed=seed)
        return {**found, "storage": str(cells.folder / "storage"), "train": TRAIN | {"max_steps": 100}}

    names = {f"{arm} / {seed}": (arm, seed) for arm in ("begin", *ARMS) for seed in seeds}
    stores = stores_of(cells.folder, {name: recipe(*own, base) for name, own in names.items()})

    def measure(arm: str, tokens: int, sources: dict[int, Path]) -> None:
        work = {
            name: functools.partial(
                trained, recipe(arm, seed, sources[seed]), stores[name], tokens, written[seed][1], tokenizer
            )
            for name, (own, seed) in names.items()
            if own == arm
        }
        cells.run(work, keep=arm == "begin")

    measure("begin", options.begin, dict.fromkeys(seeds, base))
    starts = {seed: cells.place(f"begin / {seed}") / "export" / "merged" for seed in seeds}
    for arm in ARMS:
        measure(arm, options.tokens, starts)
    print("\n| | tokens | right answers, each seed | mean | of seeds |\n|---|---|---|---|---|")
    for arm, what in {"begin": "right solutions", **ARMS}.items():
        found = [cells.done[f"{arm} / {seed}"] for seed in seeds]
        right = [one["right"] for one in found]
        spread = f"± {stdev(right) / len(right) ** 0.5:.1%}" if len(right) > 1 else ""
        each, tokens = ", ".join(f"{one:.1%}" for one in right), fmean(one["tokens"] for one in found)
        print(f"| {arm}: {what} | {tokens:,.0f} | {each} | {fmean(right):.1%} | {spread} |")
    print(f"right verdicts of cft: {fmean(cells.done[f'cft / {seed}']['verdicts'] for seed in seeds):.1%}")


if __name__ == "__main__":
    main()
