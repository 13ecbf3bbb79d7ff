"""Plain text: the special tokens around it, those that the tokenizer itself would put there, and one end. Pure."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from raysft.data.text.backend import Tokenizing
from raysft.data.text.fitting import Example
from raysft.data.text.template import SpecialTokens


def between_ends(
    ended: str, text: str, tokenizer: Tokenizing, special: SpecialTokens
) -> tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """(text, (ids before, ids after)) of plain text: what the tokenizer's own post-processor puts around a text,
    and one end of text; nothing that stands there already."""
    before, after = _post_processor(tokenizer)
    named = dict(special.named)
    if before and text.startswith(named.get("bos_token") or "\0"):
        before = ()
    if after:  # the post-processor ends the text itself
        is_ended = ended == text and special.end_of_text  # without an end of text nothing was written behind it
        return text, (before, () if is_ended else after)
    return ended, (before, ())


@lru_cache(maxsize=8)
def _post_processor(tokenizer: Tokenizing) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer puts before and after a text."""
    backend = tokenizer.backend_tokenizer
    plain, processed = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    size = len(plain)
    start = next((at for at in range(len(processed) - size + 1) if processed[at : at + size] == plain), None)
    if start is None or not size:
        return (), ()
    return tuple(processed[:start]), tuple(processed[start + size :])


def with_ends(whole: Example, before: tuple[int, ...], after: tuple[int, ...]) -> Example:
    """Plain text with ids around it. With one before it, its first token is predicted, and so trained."""
    target = whole.target.copy()
    if before and len(target):
        target[0] = 1.0
    lengths = len(before), len(after)
    return whole._replace(
        input_ids=np.concatenate([np.asarray(before, np.int32), whole.input_ids, np.asarray(after, np.int32)]),
        target=np.concatenate([np.zeros(lengths[0], np.float32), target, np.ones(lengths[1], np.float32)]),
        flags=np.concatenate([np.zeros(lengths[0], np.uint8), whole.flags, np.zeros(lengths[1], np.uint8)]),
    )
