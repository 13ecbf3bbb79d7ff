"""A tokenizer that ends texts by itself, for who uses a model of vectors: no task of data needs it."""

from __future__ import annotations

from tokenizers.processors import Sequence, TemplateProcessing
from transformers import PreTrainedTokenizerFast


def with_own_ends(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer such that it puts the end of text behind a text by itself, as plain texts are trained with it;
    changed, where it did not."""
    end, backend = tokenizer.eos_token, tokenizer.backend_tokenizer
    if not end or _ends(tokenizer):
        return tokenizer
    ends = TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    own = backend.post_processor
    backend.post_processor = ends if own is None else Sequence([own, ends])
    return tokenizer


def _ends(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Does it put something behind a text already?"""
    plain, processed = (tokenizer("a", add_special_tokens=special).input_ids for special in (False, True))
    return bool(processed) and processed[-1:] != plain[-1:]
