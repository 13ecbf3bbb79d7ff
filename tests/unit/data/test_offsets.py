from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raysft.data.offsets import locate, tokenize

TEXTS = ["", "plain ascii\n\n text", "你好，世界 🙂🏽", "<|im_start|>user\n🙂<|im_end|>\n", " lead", "é̂́ café"]


@pytest.mark.parametrize("text", TEXTS)
def test_byte_positions_are_exact(text, tokenizers):
    tokenizer = tokenizers["chatml"]
    (tokens,) = tokenize(tokenizer, [text])
    raw = text.encode()
    assert tokens.in_bytes
    assert tokens.ids.tolist() == tokenizer(text, add_special_tokens=False).input_ids
    pieces = [raw[a:b] for a, b in zip(tokens.starts, tokens.ends, strict=True)]
    assert b"".join(pieces) == raw
    assert all(tokens.starts[1:] == tokens.ends[:-1])


def byte_level(normalizer=None, trim: bool = False) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("b", "c")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    if normalizer:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_trimmed_offsets_do_not_move_a_border():
    tokenizer = byte_level(trim=True)
    reported = tokenizer("x a", add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    assert reported[1] == (2, 3), "this tokenizer reports offsets without the space"
    (tokens,) = tokenize(tokenizer, ["x a"])
    assert tokens.starts.tolist() == [0, 1]
    target, straddles = locate("x a", tokens, [(2, 3)])
    assert target.tolist() == [False, False], "the token's first character is the space"
    assert straddles.tolist() == [False, True]


def test_a_normalizer_falls_back_to_character_offsets():
    tokenizer = byte_level(normalizer=normalizers.NFC())
    (tokens,) = tokenize(tokenizer, ["e\u0301bc"])
    assert not tokens.in_bytes
    target, straddles = locate("e\u0301bc", tokens, [(2, 4)])
    assert tokenizer.decode(tokens.ids[target]) == "bc"
    assert not straddles.any()


def test_other_tokenizers_use_their_own_offsets():
    backend = Tokenizer(models.WordLevel({"ab": 0, "c": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    (tokens,) = tokenize(tokenizer, ["ab c ab"])
    target, _ = locate("ab c ab", tokens, [(3, 4)])
    assert (tokens.in_bytes, target.tolist()) == (False, [False, True, False])


def test_locate_against_brute_force():
    random = np.random.default_rng(0)
    text = "".join(random.choice(list("ab \n你🙂é"), 60))
    tokenizer = byte_level()
    (tokens,) = tokenize(tokenizer, [text])
    byte_of = np.cumsum([0] + [len(character.encode()) for character in text])
    for _ in range(200):
        borders = np.sort(random.choice(61, 4, replace=bool(random.integers(2))))
        spans = [(int(borders[0]), int(borders[1])), (int(borders[2]), int(borders[3]))]
        inside = np.zeros(byte_of[-1] + 1, dtype=bool)
        for start, end in spans:
            inside[byte_of[start] : byte_of[end]] = True
        target, straddles = locate(text, tokens, spans)
        assert target.tolist() == inside[tokens.starts].tolist()
        for start, end, found in zip(tokens.starts, tokens.ends, straddles, strict=True):
            assert found == (inside[start:end].any() and not inside[start:end].all())
