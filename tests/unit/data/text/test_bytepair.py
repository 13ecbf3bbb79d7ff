"""tiktoken's engine gives the tokenizer's own ids, or it is not used."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken._tiktoken import CoreBPE
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from raysft.data.text.bytepair import PATTERNS, byte_of_character, byte_pairs

SPECIAL = ["<|im_start|>", "<|im_end|>"]
TEXT = (
    "The quick brown foxes aren't jumping; they'd rather have 12,345.67 naps!\n\n  def f(x):\n\treturn x**2  \r\n"
    "Größe und Übermut -- naïve café. 你好,世界。今天天气很好 ١٢٣ Ελληνικά кириллица ﷺ 🙂👩‍👩‍👧\n"
    "aaaa aaaaa abab ababab\n"
)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def trained(pattern: str | None, vocab_size: int = 600) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = split(pattern) if pattern else pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    draw = random.Random(0)
    words = TEXT.split(" ")
    core.train_from_iterator([TEXT, *(" ".join(draw.choices(words, k=30)) for _ in range(60))], trainer)
    return core


def changed(core: Tokenizer, change: Any) -> Tokenizer:
    state = json.loads(core.to_str())
    change(state)
    return Tokenizer.from_str(json.dumps(state))


def fast(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core)


def every_split(state: dict[str, Any]) -> None:
    """As converters from tiktoken write it: every way to cut a token in two is a merge, by the token's id."""
    vocabulary = state["model"]["vocab"]
    made = {left + right for left, right in state["model"]["merges"]}
    cuts = [
        (token[:n], token[n:])
        for token in sorted(made, key=vocabulary.__getitem__)
        for n in range(1, len(token))
        if token[:n] in vocabulary and token[n:] in vocabulary
    ]
    state["model"] |= {"merges": cuts, "ignore_merges": True}


CORES = {
    "gpt2": trained(None),
    **{f"pattern {n}": trained(pattern) for n, pattern in enumerate(PATTERNS)},
    "every split": changed(trained(PATTERNS[2]), every_split),
}


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int] | None:
    engine = byte_pairs(tokenizer)
    assert engine is not None
    found = engine.encode(text)
    return None if found is None else np.frombuffer(found, np.int32).tolist()


TOKENIZERS = {name: fast(core) for name, core in CORES.items()}
PIECES = st.sampled_from(
    [*SPECIAL, "aaa", "abab", "'S", "'ſ", " 12", "\r\n", "  ", "你好", "\u00e9", "e\u0301", "👩‍👩‍👧"]
)


@pytest.mark.parametrize("name", sorted(CORES))
@settings(max_examples=150, deadline=None)
@given(parts=st.lists(PIECES | st.text(max_size=12) | st.text("ab", max_size=9), max_size=9))
def test_any_text_has_the_tokenizers_own_ids(name: str, parts: list[str]) -> None:
    text = "".join(parts)
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return
    assert ids_of(TOKENIZERS[name], text) == CORES[name].encode(text, add_special_tokens=False).ids


BLANKS = "".join(chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace())


@pytest.mark.parametrize("name", sorted(CORES))
def test_a_text_with_any_blanks_has_the_tokenizers_own_ids(name: str) -> None:
    """Whether the pattern has to look ahead or not: every two blanks before, between and behind words and marks."""
    pairs = [one + other for one in BLANKS for other in ("", *BLANKS)]
    forms = ("a{}b", "{}a", "a{}", "a.{}.b", "1{}<|im_end|>{}b", "a b{}'s\nc", "é{}é")
    texts = [form.replace("{}", pair) for form in forms for pair in pairs]
    own = [encoding.ids for encoding in CORES[name].encode_batch(texts, add_special_tokens=False)]
    assert [ids_of(TOKENIZERS[name], text) for text in texts] == own


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("form", ["a{}", "1{}", ".{}", " {}", "'{}"])
def test_both_libraries_cut_at_the_same_characters(pattern: str, form: str) -> None:
    """Each code point of the planes that have characters; of the long blocks of ideographs and Hangul, some.
    tiktoken finds a piece that is in its vocabulary whole."""
    long_blocks = ((0x3400, 0x9FF0), (0xAC00, 0xD7A0), (0xD800, 0xF900), (0x17000, 0x18D00), (0x20000, 0x32400))
    dull = {code for start, end in long_blocks for code in range(start, end) if code % 61}
    codes = [code for code in (*range(0x32400), *range(0xE0000, 0xE0200)) if code not in dull]
    codes = [code for code in codes if not 0xD800 <= code < 0xE000]
    words = [form.format(chr(code)) for code in codes]
    vocabulary = {bytes([byte]): byte for byte in range(256)}
    vocabulary |= {word.encode(): 1000 + n for n, word in enumerate(words) if len(word.encode()) > 1}
    engine, cut = CoreBPE(vocabulary, {}, pattern), pre_tokenizers.Split(Regex(pattern), "isolated")
    theirs = [len(engine.encode_ordinary(word)) == 1 for word in words]
    ours = [len(cut.pre_tokenize_str(word)) == 1 for word in words]
    assert theirs == ours


def swap(state: dict[str, Any]) -> None:
    """The first two merges in the other order: ids no longer say which comes first."""
    merges = state["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def unmade(state: dict[str, Any]) -> None:
    """A word of the vocabulary that no merge makes, found whole."""
    state["model"]["vocab"]["zqzqzq"] = 5000
    state["model"]["ignore_merges"] = True


def set_field(*path: str, value: Any) -> Any:
    def change(state: dict[str, Any]) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        swap,
        unmade,
        set_field("model", "dropout", value=0.1),
        set_field("model", "byte_fallback", value=True),
        set_field("pre_tokenizer", value={"type": "Whitespace"}),
        set_field("pre_tokenizer", value=json.loads(split(r"\w+|\W").__getstate__())),
        set_field("normalizer", value={"type": "Lowercase"}),
    ],
)
def test_a_tokenizer_without_the_proof_is_left_alone(change: Any) -> None:
    core = trained(PATTERNS[1])
    assert byte_pairs(fast(core)) is not None
    assert byte_pairs(fast(changed(core, change))) is None


def test_the_order_of_merges_is_no_idle_condition() -> None:
    """Two merges out of order: by ids `ab` comes first, by the list `bc`; the engines differ, so it is refused."""
    byte_of = byte_of_character()
    vocabulary = byte_of | {"ab": 256, "bc": 257}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("b", "c"), ("a", "b")]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    ranks = {bytes(byte_of[c] for c in token): index for token, index in vocabulary.items()}
    assert CoreBPE(ranks, {}, PATTERNS[0]).encode_ordinary("abc") != core.encode("abc").ids
    assert byte_pairs(fast(core)) is None


@pytest.mark.parametrize(
    "tokens",
    [
        [AddedToken("<tool>", lstrip=True)],
        [AddedToken("<tool>", rstrip=True)],
        [AddedToken("<tool>", single_word=True)],
        ["<tool>", "<tool>x"],
        ["a<tool>b", "<tool>"],
        ["<to|", "|ol>"],
    ],
)
def test_added_tokens_whose_order_matters(tokens: list[Any]) -> None:
    core = trained(PATTERNS[1])
    core.add_tokens(tokens)
    assert byte_pairs(fast(core)) is None


def test_many_added_tokens() -> None:
    core = trained(PATTERNS[1])
    core.add_tokens([AddedToken(f"<|reserved_{n:03}|>", special=True) for n in range(250)])
    text = f"<|im_start|>a <|reserved_007|>{TEXT}<|reserved_249|><|im_end|>"
    assert ids_of(fast(core), text) == core.encode(text, add_special_tokens=False).ids


def test_texts_without_the_proof() -> None:
    composed, plain = trained(PATTERNS[1]), fast(trained(PATTERNS[1]))
    composed.normalizer = normalizers.NFC()
    tokenizer = fast(composed)
    assert ids_of(tokenizer, "caf\u00e9") == composed.encode("caf\u00e9", add_special_tokens=False).ids
    assert ids_of(tokenizer, "cafe\u0301") is None
    assert ids_of(tokenizer, "new \U0001fae9") is None  # of Unicode 16: this Python knows nothing of it
    assert ids_of(plain, "cafe\u0301") is not None
    assert ids_of(plain, "a" * 200_001) is None
    with pytest.raises(UnicodeEncodeError):
        ids_of(plain, "\ud800")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["gsm8k_train.jsonl", "alpaca_zh_demo.json", "wiki_demo.txt", "c4_demo.jsonl"])
def test_real_text(shared_data: Path, name: str) -> None:
    text = (shared_data / name).read_text()[:400_000]
    lines = [line.encode().decode("unicode-escape", "ignore") if "\\u" in line else line for line in text.split("\n")]
    for tokenizer in (TOKENIZERS["pattern 1"], TOKENIZERS["every split"]):
        for line in lines:
            clean = line.encode(errors="ignore").decode()
            assert ids_of(tokenizer, clean) == tokenizer.backend_tokenizer.encode(clean, add_special_tokens=False).ids
