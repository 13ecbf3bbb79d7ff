"""Tokenizers that were trained, and models that were exported, to be used here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from raysft.data.text import tokenizer as tokenizers
from raysft.evaluate.exported import load_exported
from raysft.evaluate.generation import TransformersGenerator
from raysft.evaluate.sampling import Sampling

BATCH_SIZE = 8
"""Questions answered at once."""

Chat = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that was written."""

    location: str
    num_tokens: int
    tokenizer: PreTrainedTokenizerFast

    def __str__(self) -> str:
        return f"{self.location} ({self.num_tokens:,} tokens)"


def train_tokenizer(
    files: Sequence[str],
    out: str,
    *,
    vocab_size: int,
    template: str,
    columns: Mapping[str, str],
    overwrite: bool,
) -> Tokenizer:
    """See verbs.train_tokenizer."""
    made = tokenizers.train_tokenizer(
        files, columns=dict(columns), vocab_size=vocab_size, template=template, out=out, overwrite=overwrite
    )
    return Tokenizer(out, len(made), made)


@dataclass(frozen=True)
class LoadedModel:
    """An exported model on the CPU, in its own dtype, with its tokenizer: transformers' own objects."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    def answer(self, questions: Sequence[str | Chat], *, max_new_tokens: int = 256) -> list[str]:
        """Greedy answers, in the order of the questions, rendered with the template that was trained.

        questions: texts of a user, or chats. Raises ModelError when one is longer than the model's positions.
        """
        chats = [[{"role": "user", "content": q}] if isinstance(q, str) else [dict(m) for m in q] for q in questions]
        prompts = [
            str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
            for chat in chats
        ]
        return TransformersGenerator(self.model, self.tokenizer, batch_size=BATCH_SIZE).generate(
            prompts, Sampling(max_new_tokens)
        )


def load_model(location: str) -> LoadedModel:
    """An export directory or any transformers directory with safetensors. Raises ModelError."""
    return LoadedModel(*load_exported(location))
