"""Everything that `raysft evaluate` and the before/after table say of a model, in one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raysft.data.store.parts import TokenStore
from raysft.evaluate.generation import answer_prompts, exact_match
from raysft.evaluate.heldout import HeldOut, held_out_loss

KEPT_SAMPLES = 10
BATCH_SIZE = 32
"""Prompts answered at once."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured; None: not asked for."""

    loss: float | None
    """Nats per held-out target token."""
    perplexity: float | None
    target_tokens: int
    """Tokens the loss was taken over."""
    exact_match: float | None
    """Share of greedy answers that equal their reference."""
    num_prompts: int
    samples: tuple[dict[str, str], ...]
    """The first prompts with `prompt`, `answer` (the model's) and `reference`."""
    of_pairs: bool = False
    """The loss is that of the preferred answers of pairs."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for files and the report."""
        return {**asdict(self), "samples": list(self.samples)}


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    eval_store: str | None,
    prompts: Sequence[Mapping[str, str]],
    max_rows: int,
    max_new_tokens: int,
    stops: Sequence[int] | None = None,
) -> Evaluation:
    """Held-out loss over a token store (if given) and greedy answers to prompts (if any).

    prompts: mappings with `prompt` (rendered text) and `answer` (the reference). stops: ids that end an answer;
    default: every special token.
    Raises DataError, ModelError, StorageError.
    """
    held_out: HeldOut | None = None
    if eval_store is not None:
        held_out = held_out_loss(model, TokenStore.open(eval_store), max_rows=max_rows)
    texts = [prompt["prompt"] for prompt in prompts]
    references = [prompt["answer"] for prompt in prompts]
    answers = answer_prompts(
        model, tokenizer, texts, max_new_tokens=max_new_tokens, batch_size=BATCH_SIZE, stops=stops
    )
    shown = list(zip(texts, answers, references, strict=True))[:KEPT_SAMPLES]
    return Evaluation(
        loss=held_out.loss if held_out else None,
        perplexity=held_out.perplexity if held_out else None,
        target_tokens=held_out.target_tokens if held_out else 0,
        exact_match=exact_match(answers, references) if answers else None,
        num_prompts=len(answers),
        samples=tuple({"prompt": p, "answer": a, "reference": r} for p, a, r in shown),
        of_pairs=held_out is not None and held_out.of_pairs,
    )
