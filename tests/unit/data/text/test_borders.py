"""Tokens where an answer begins: those of the prompt alone, then those of the answer alone without a dummy blank."""

from __future__ import annotations

import numpy as np
import pytest
from chats import tokenizer_of

from raysft.data.text.borders import cut, without_prefix
from raysft.data.text.offsets import tokenize

KINDS = {
    "gpt2": "vicuna, gpt2",
    "digits": "llama3, digits",
    "one digit": "blocks, one digit",
    "prepend": "llama2, prepend",
    "first": "llama2, first",
    "always": "mistral v0.1, always",
    "never": "gemma, never",
    "unigram": "vicuna, unigram",
    "strips": "phi3, prepend",
}
BORDERS = [
    ("Q:  ", "yes"),  # two blanks: the second would go to the word
    ("Q: ", "yes"),
    ("Q:", " yes"),
    ("Q:\n", "\n\nyes"),
    ("Q:\n", "  yes"),
    ("12", "3456 is more"),  # digits in threes
    ("is it 'b", "lue'"),
    ("<s>", "yes"),
    ("<s>Q:\n<s>x\n", "\ny<s>z"),
    ("naïve 你", "好 🙂"),
    ("a", "\t b"),
    ("it'", "s blue"),
]


def ids_of(tokenizer, text):
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def answer_ids(tokenizer, answer):
    """The answer's tokens alone, without the blank that SentencePiece puts before a text."""
    return ids_of(without_prefix(tokenizer), answer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prompt", "answer"), BORDERS)
def test_both_sides_are_tokenized_apart(kind, prompt, answer):
    tokenizer = tokenizer_of(KINDS[kind])
    texts = ["before", prompt + answer, "after 你"]
    found, cuts = cut(tokenizer, texts, tokenize(tokenizer, texts), [[], [len(prompt)], []])
    own = [found.ids[a:b].tolist() for a, b in zip(found.bounds, found.bounds[1:], strict=False)]
    assert [own[0], own[2]] == [ids_of(tokenizer, texts[0]), ids_of(tokenizer, texts[2])]
    whole = ids_of(tokenizer, texts[1])
    assert own[1][: len(ids_of(tokenizer, prompt))] == ids_of(tokenizer, prompt)
    assert bool(cuts[1]) == (own[1] != whole)
    if cuts[1]:
        rest = own[1][len(ids_of(tokenizer, prompt)) :]
        stretch = answer_ids(tokenizer, answer.split("<s>")[0])  # to the next added token
        assert rest[: len(stretch)] == stretch
    place = len(prompt.encode()) if found.in_bytes[1] else len(prompt)
    starts = found.starts[found.bounds[1] : found.bounds[2]] - found.bases[1]
    ends = found.ends[found.bounds[1] : found.bounds[2]] - found.bases[1]
    assert not np.any((starts < place) & (ends > place)), "no token over the border"


def test_no_blank_is_put_before_an_answer():
    """`a: ` + `yes`: the blank is the prompt's, the answer begins without one."""
    tokenizer = tokenizer_of("llama2, prepend")
    found, cuts = cut(tokenizer, ["a: yes"], tokenize(tokenizer, ["a: yes"]), [[3]])
    pieces = tokenizer.convert_ids_to_tokens(found.ids.tolist())
    assert cuts == [[3]]
    assert "".join(pieces) == "▁a:▁yes"
    assert pieces[-1] != "▁yes"
    assert not pieces[-1 - pieces[::-1].index("▁") + 1].startswith("▁")


def test_several_borders_in_one_stretch():
    tokenizer = tokenizer_of("vicuna, gpt2")
    text = "Q:\n\n\nyes\n\nQ:\n\n\nno"
    borders = [3, 13]
    found, cuts = cut(tokenizer, [text], tokenize(tokenizer, [text]), [borders])
    pieces = [text[a:b] for a, b in zip([0, *borders], [*borders, len(text)], strict=True)]
    assert found.ids.tolist() == [token for piece in pieces for token in ids_of(tokenizer, piece)]
    assert cuts == [borders]


def test_a_tokenizer_that_puts_no_blank_is_its_own():
    tokenizer = tokenizer_of("llama3, digits")
    assert without_prefix(tokenizer) is tokenizer
    assert without_prefix(tokenizer_of("llama2, first")) is not tokenizer_of("llama2, first")
