from __future__ import annotations

import json
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raysft.data.text.offsets import locate, tokenize

TEXTS = ["", "plain ascii\n\n text", "你好，世界 🙂🏽", "<|im_start|>user\n🙂<|im_end|>\n", " lead", "é̂́ café"]


@pytest.mark.parametrize("text", TEXTS)
def test_byte_positions_are_exact(text, tokenizers):
    tokenizer = tokenizers["chatml"]
    tokens = tokenize(tokenizer, [text])
    raw = text.encode()
    assert tokens.in_bytes.all()
    assert tokens.ids.tolist() == tokenizer(text, add_special_tokens=False).input_ids
    pieces = [raw[a:b] for a, b in zip(tokens.starts, tokens.ends, strict=True)]
    assert b"".join(pieces) == raw
    assert all(tokens.starts[1:] == tokens.ends[:-1])


def byte_level(normalizer=None, trim: bool = False, prefix: bool = False, without: str = "", unknown=None):
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(without))
    merges = [("Ġ", "a"), ("b", "c")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    if normalizer:
        backend.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_trimmed_offsets_do_not_move_a_border():
    tokenizer = byte_level(trim=True)
    reported = tokenizer("x a", add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    assert reported[1] == (2, 3), "this tokenizer reports offsets without the space"
    tokens = tokenize(tokenizer, ["x a"])
    assert tokens.starts.tolist() == [0, 1]
    target, straddles = locate(["x a"], tokens, [[(2, 3)]])
    assert target.tolist() == [False, False], "the token's first character is the space"
    assert straddles.tolist() == [False, True]


def test_a_normalizer_falls_back_to_character_offsets():
    tokenizer = byte_level(normalizer=normalizers.NFC())
    tokens = tokenize(tokenizer, ["e\u0301bc"])
    assert not tokens.in_bytes.any()
    target, straddles = locate(["e\u0301bc"], tokens, [[(2, 4)]])
    assert tokenizer.decode(tokens.ids[target]) == "bc"
    assert not straddles.any()


def test_other_tokenizers_use_their_own_offsets():
    backend = Tokenizer(models.WordLevel({"ab": 0, "c": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "removed")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokens = tokenize(tokenizer, ["ab c ab"])
    target, _ = locate(["ab c ab"], tokens, [[(3, 4)]])
    assert (tokens.in_bytes.tolist(), target.tolist()) == ([False], [False, True, False])


def test_locate_against_brute_force():
    random = np.random.default_rng(0)
    text = "".join(random.choice(list("ab \n你🙂é"), 60))
    tokenizer = byte_level()
    tokens = tokenize(tokenizer, [text])
    byte_of = np.cumsum([0] + [len(character.encode()) for character in text])
    for _ in range(200):
        borders = np.sort(random.choice(61, 4, replace=bool(random.integers(2))))
        spans = [(int(borders[0]), int(borders[1])), (int(borders[2]), int(borders[3]))]
        inside = np.zeros(byte_of[-1] + 1, dtype=bool)
        for start, end in spans:
            inside[byte_of[start] : byte_of[end]] = True
        target, straddles = locate([text], tokens, [spans])
        assert target.tolist() == inside[tokens.starts].tolist()
        for start, end, found in zip(tokens.starts, tokens.ends, straddles, strict=True):
            assert found == (inside[start:end].any() and not inside[start:end].all())


def expected_positions(tokenizer, text: str) -> list[tuple[int, int]]:
    """Characters, as `encode` reports them; of a token that is a part of a character, the whole of it."""
    return [tuple(pair) for pair in tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).offsets]


def check_batch(tokenizer, texts, spans) -> None:
    """A batch gives what the tokenizer's own offsets give, text by text and token by token."""
    tokens = tokenize(tokenizer, texts)
    target, straddles = locate(texts, tokens, spans)
    assert len(tokens.bounds) == len(texts) + 1
    for index, text in enumerate(texts):
        own = slice(tokens.bounds[index], tokens.bounds[index + 1])
        pairs = expected_positions(tokenizer, text)
        assert tokens.ids[own].tolist() == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        character_of = [at for at, letter in enumerate(text) for _ in letter.encode()] + [len(text)]
        starts = (tokens.starts[own] - tokens.bases[index]).tolist()
        ends = (tokens.ends[own] - tokens.bases[index]).tolist()
        if tokens.in_bytes[index]:
            starts, ends = [character_of[s] for s in starts], [character_of[e - 1] + 1 for e in ends]
        assert list(zip(starts, ends, strict=True)) == pairs
        inside = [any(start <= at < end for start, end in spans[index]) for at in range(len(text))]
        assert target[own].tolist() == [inside[start] for start, _ in pairs]
        assert straddles[own].tolist() == [len(set(inside[start:end])) == 2 for start, end in pairs]


def test_batches_of_random_texts(tokenizers):
    random = np.random.default_rng(1)
    letters = [*"ab \n:", "你", "🙂", "é", "<|im_end|>", "alpha beta", "\n\n"]
    texts = ["".join(random.choice(letters, random.integers(1, 30))) for _ in range(200)]
    texts[3:3] = ["", ""]
    spans = []
    for text in texts:
        borders = np.sort(random.integers(0, len(text) + 1, 4)).tolist()
        spans.append([(borders[0], borders[1]), (borders[2], borders[3])])
    spans[0] = [(0, len(texts[0]))]
    spans[1] = []
    check_batch(tokenizers["chatml"], texts, spans)
    check_batch(byte_level(normalizer=normalizers.Lowercase()), texts, spans)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["alpaca_en_demo.json", "alpaca_zh_demo.json"])
def test_real_texts_give_the_offsets_of_encode(name, tokenizers, shared):
    records = json.loads((shared / name).read_text("utf-8"))[:150]
    texts = [f"<|im_start|>user\n{r['instruction']}{r['input']}<|im_end|>\n{r['output']}" for r in records]
    check_batch(tokenizers["chatml"], texts, [[(3, len(text) // 2)] for text in texts])


def test_bytes_that_were_lost_are_found_out():
    """Where a text's bytes are not its tokens' bytes, whatever the reason, character offsets are used."""
    lossy = byte_level(without="z")  # no token for z, and no unknown token: it vanishes
    assert tokenize(lossy, ["xa", "xz"]).in_bytes.tolist() == [True, False]
    assert tokenize(byte_level(prefix=True), ["xa", " xa"]).in_bytes.tolist() == [False, True]
    stripping = byte_level()
    stripping.backend_tokenizer.add_special_tokens([AddedToken("<s>", lstrip=True, normalized=False)])
    assert tokenize(stripping, ["x<s>", "x <s>"]).in_bytes.tolist() == [True, False]


def test_bytes_that_were_lost_and_others_added_are_found_out():
    """The length is the same."""
    unknown = byte_level(without="z", unknown="?")
    assert tokenize(unknown, ["xa", "xz"]).in_bytes.tolist() == [True, False]
    prefixing = byte_level(prefix=True)
    prefixing.backend_tokenizer.add_special_tokens([AddedToken("<s>", lstrip=True, normalized=False)])
    assert tokenize(prefixing, ["x <s>"]).in_bytes.tolist() == [False]


def test_a_normal_form_is_compared_byte_by_byte():
    """Combining marks in another order have the same length: length is no proof beyond ASCII."""
    tokenizer = byte_level(normalizer=normalizers.NFC())
    reordered = "q\u0307\u0323"
    assert len(unicodedata.normalize("NFC", reordered)) == len(reordered)
    assert tokenize(tokenizer, ["abc", "é", reordered]).in_bytes.tolist() == [True, True, False]
    upper = byte_level(normalizer=normalizers.Lowercase())
    assert tokenize(upper, ["abc", "aBc"]).in_bytes.tolist() == [True, False]


def test_no_texts(tokenizers):
    tokens = tokenize(tokenizers["chatml"], [])
    assert len(tokens.ids) == 0
    target, straddles = locate([], tokens, [])
    assert len(target) == len(straddles) == 0


def test_a_token_without_text_at_the_end_is_no_part_of_the_next_text():
    """It stands where the next text's first span would begin if the texts had no place between them."""
    texts = ["abc", "abc"]
    places = np.array([0, 3, 4], np.int64), np.array([3, 3, 7], np.int64)
    tokens = tokenize(byte_level(), texts)
    made = replace(tokens, ids=tokens.ids[:3], starts=places[0], ends=places[1], bases=np.array([0, 4]))
    target, straddles = locate(texts, made, [[], [(0, 3)]])
    assert target.tolist() == [False, False, True]
    assert not straddles.any()


def marked(model, scheme: str = "first", llama: bool = False):
    """Blanks as marks: by a Metaspace pre-tokenizer (T5, Llama 2 as converted today) or a normalizer (Gemma)."""
    backend = Tokenizer(model)
    backend.add_special_tokens(["<|im_end|>"])
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if llama:
        backend.normalizer = normalizers.Replace(" ", "\u2581")
        backend.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


UNIGRAM = [
    ("<unk>", 0.0),
    *((piece, -float(n)) for n, piece in enumerate(["\u2581", "a", "b", "ab", "\u2581ab", "你"], 2)),
]
BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}
LETTERS = {piece: 256 + n for n, piece in enumerate(["\u2581", "a", "b", "你", "\u2581a", "ab"])}


@pytest.mark.parametrize("kind", ["unigram", "unigram always", "bytes"])
def test_blanks_written_as_marks(kind: str) -> None:
    if kind == "bytes":
        merges = [("\u2581", "a"), ("a", "b")]
        tokenizer = marked(models.BPE(vocab=BYTES | LETTERS, merges=merges, byte_fallback=True), llama=True)
    else:
        tokenizer = marked(models.Unigram(UNIGRAM, unk_id=0), "always" if kind.endswith("always") else "first")
    random = np.random.default_rng(2)
    letters = ["a", "b", " ", "ab", "你", "<|im_end|>", *([] if kind == "bytes" else ["\u2581", "é"])]
    texts = ["<|im_end|>" + "".join(random.choice(letters, random.integers(0, 12))) for _ in range(150)]
    texts += ["ab ab", "a", "<unk>", "<|im_end|>ab ab"]
    spans = []
    for text in texts:
        borders = np.sort(random.choice(len(text) + 1, 2, replace=False)).tolist()
        spans.append([tuple(borders)])
    check_batch(tokenizer, texts, spans)
    by_table = tokenize(tokenizer, texts).in_bytes
    assert by_table[-1] == (kind != "unigram always"), "else the table is never used"
    assert kind == "bytes" or not by_table[-2], "an unknown token stands for any letters"


def test_marks_and_bytes_in_the_text_itself() -> None:
    """A mark in the text is no blank, and a byte token's place lies inside its character."""
    merges = [("a", "b")]
    tokenizer = marked(models.BPE(vocab=BYTES | LETTERS, merges=merges, byte_fallback=True), llama=True)
    tokens = tokenize(tokenizer, ["a\u2581b", "a é b"])
    assert tokens.in_bytes.tolist() == [False, True]
    target, straddles = locate(["a\u2581b", "a é b"], tokens, [[], [(2, 3)]])
    assert target[tokens.bounds[1] :].tolist() == [False, False, True, True, False, False]
    assert not straddles.any()
