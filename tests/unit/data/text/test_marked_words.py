"""Word by word, a tokenizer with marks for blanks gives the ids it gives the whole text, or it is not used so."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from raysft.data.text.marked_words import marked_words
from raysft.data.text.offsets import tokenize

MARK = "\u2581"
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]
TEXT = (
    "The quick brown foxes aren't jumping; they'd rather have 12,345.67 naps!\n\n  def f(x):\n\treturn x**2  \n"
    "Größe und Übermut -- naïve café. 你好 世界。 aaaa aaaaa abab ababab\n"
)
METASPACE = pre_tokenizers.Metaspace
MARKS = normalizers.Replace(" ", MARK)
BLANKS = pre_tokenizers.Split(" ", "merged_with_previous")


def trained(pre_tokenizer: Any, normalizer: Any = None, *, unigram: bool = False, **model: Any) -> Tokenizer:
    """As SentencePiece has it: words are cut apart while it is trained, whatever is done later."""
    core = Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = METASPACE(prepend_scheme="never")
    draw, words = random.Random(0), TEXT.split(" ")
    texts = [TEXT, *(" ".join(draw.choices(words, k=30)) for _ in range(60)), "    x  y" * 9]
    more: dict[str, Any] = {"vocab_size": 300, "special_tokens": SPECIAL, "show_progress": False}
    trainer = trainers.UnigramTrainer(unk_token="<unk>", **more) if unigram else trainers.BpeTrainer(**more)
    core.train_from_iterator(texts, trainer)
    core.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        core.normalizer = normalizer
    return changed(core, model=model)


def changed(core: Tokenizer, *, model: dict[str, Any]) -> Tokenizer:
    state = json.loads(core.to_str())
    state["model"] |= model
    return Tokenizer.from_str(json.dumps(state))


def with_bytes(core: Tokenizer) -> Tokenizer:
    """Characters that the vocabulary lacks are written as bytes; blanks in a row are one token, as Gemma has them."""
    vocabulary = dict(json.loads(core.to_str())["model"]["vocab"])
    for token in [*(f"<0x{byte:02X}>" for byte in range(256)), MARK, MARK * 2]:
        vocabulary.setdefault(token, len(vocabulary))
    merges = [[MARK, MARK], *json.loads(core.to_str())["model"]["merges"]]
    whole = {"byte_fallback": True, "fuse_unk": True, "vocab": vocabulary, "merges": merges}
    core = changed(core, model=whole)
    more = [MARK * 3, "\n", "\n\n", "\n\n\n", "<table>", "<tab"]
    core.add_tokens([AddedToken(text, normalized=False) for text in more])
    return core


CORES = {
    "unigram, t5": trained(METASPACE(prepend_scheme="always"), unigram=True),
    "unigram, first": trained(METASPACE(prepend_scheme="first"), unigram=True),
    "bpe, cut": trained(METASPACE(prepend_scheme="first")),
    "llama": with_bytes(trained(METASPACE(prepend_scheme="first", split=False))),
    "llama, never": trained(METASPACE(prepend_scheme="never", split=False)),
    "llama, older": trained(None, normalizers.Sequence([normalizers.Prepend(MARK), MARKS])),
    "gemma": with_bytes(trained(BLANKS, MARKS)),
}


def fast(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core)


TOKENIZERS = {name: fast(core) for name, core in CORES.items()}
PIECES = st.sampled_from([*SPECIAL, "aaa", " aaa", "The", " ", "  ", MARK, "\n\n", "<table", "<tab", "你好", "🙂"])


@pytest.mark.parametrize("name", sorted(CORES))
@settings(max_examples=200, deadline=None)
@given(parts=st.lists(PIECES | st.text("ab \n", max_size=9) | st.text(max_size=5), max_size=9))
def test_any_text_has_the_tokenizers_own_ids(name: str, parts: list[str]) -> None:
    text = "".join(parts)
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return
    words = marked_words(TOKENIZERS[name])
    assert words is not None
    found = words.encode(text)
    assert found is not None
    assert np.frombuffer(found, np.int32).tolist() == CORES[name].encode(text, add_special_tokens=False).ids


def test_words_that_were_forgotten_are_learnt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysft.data.text.marked_words._WORDS_KEPT", 3)
    words = marked_words(fast(CORES["llama"]))
    assert words is not None
    for text in ["a b c d e f", "The quick brown", "a b c"] * 2:
        found = words.encode(text)
        assert found is not None
        assert np.frombuffer(found, np.int32).tolist() == CORES["llama"].encode(text, add_special_tokens=False).ids


def test_text_without_blanks_is_left_to_the_tokenizer() -> None:
    words = marked_words(TOKENIZERS["llama"])
    assert words is not None
    assert words.encode("你好" * 50) is None
    texts = ["<|im_start|>" + "你好" * 50, "<|im_end|>The quick", "你好" * 60]
    tokens = tokenize(TOKENIZERS["llama"], texts)
    own = [CORES["llama"].encode(text, add_special_tokens=False).ids for text in texts]
    assert [tokens.ids[a:b].tolist() for a, b in zip(tokens.bounds, tokens.bounds[1:], strict=False)] == own


def crossing(core: Tokenizer) -> Tokenizer:
    """A merge that joins a mark to the letter before it: "a b" is not its words."""
    state = json.loads(core.to_str())["model"]
    vocabulary = state["vocab"] | {"a" + MARK: len(state["vocab"])}
    return changed(core, model={"vocab": vocabulary, "merges": [["a", MARK], *state["merges"]]})


REFUSED = {
    "a merge over the edge of a word": crossing(CORES["llama, never"]),
    "unigram over the whole text": trained(METASPACE(split=False), unigram=True),
    "dropout": trained(METASPACE(split=False), dropout=0.1),
    "dropout within words": trained(METASPACE(), dropout=0.1),
    "whole words first": trained(METASPACE(split=False), ignore_merges=True),
    "another normalizer": trained(METASPACE(), normalizers.NFKC()),
    "another mark": trained(METASPACE(replacement="_")),
    "other cuts": trained(pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), METASPACE()])),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_not_used_where_the_proof_fails(name: str) -> None:
    assert marked_words(fast(REFUSED[name])) is None


def test_the_merge_over_an_edge_does_change_ids() -> None:
    core = REFUSED["a merge over the edge of a word"]
    assert core.encode("a b").tokens[0] == "a" + MARK


@pytest.mark.parametrize("greedy", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}])
def test_added_tokens_that_look_around_them_are_left_to_the_tokenizer(greedy: dict[str, bool]) -> None:
    core = Tokenizer.from_str(CORES["gemma"].to_str())
    core.add_tokens([AddedToken("<x>", **({"normalized": False} | greedy))])
    assert marked_words(fast(core)) is None
