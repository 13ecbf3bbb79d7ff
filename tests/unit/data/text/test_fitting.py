"""Samples longer than a row: dropped, cut turn by turn, or split into windows."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.chat import encode
from raysft.data.text.tokenizer import template_for

WORDS = ("alpha", "beta", "\n\n", ":", "7 + 35 = 42", "你好", "naïve", "🙂", " ")


def run(conversations, tokenizer, *, max_tokens=10**6, over_long="drop", train_on="all"):
    template = template_for("chatml", tokenizer)
    return encode(conversations, tokenizer, template, train_on=train_on, max_tokens=max_tokens, over_long=over_long)


def decoded(example, tokenizer, *, trained: bool = False) -> str:
    ids = example.input_ids[example.target > 0] if trained else example.input_ids
    return tokenizer.decode(ids, skip_special_tokens=False)


def talk(*turns: str, id: int = 1, muted: tuple[int, ...] = ()) -> Conversation:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], turn, False if i in muted else None) for i, turn in enumerate(turns)]
    return Conversation(id, tuple(messages))


def check_part(part, whole) -> None:
    stop = part.start + len(part.input_ids)
    assert part.input_ids.tolist() == whole.input_ids[part.start : stop].tolist()
    assert part.target[0] == 0, "nothing predicts the first token"
    assert not np.any((part.target > 0) & (whole.target[part.start : stop] == 0))


def test_drop(tokenizers):
    (refused,) = run([talk("hi", "alpha beta " * 50)], tokenizers["chatml"], max_tokens=40)
    assert isinstance(refused, Refusal)
    assert refused.reason == "over_long"
    assert "at most 40" in refused.detail


def test_truncate_keeps_the_answer_and_the_header_of_a_long_prompt(tokenizers):
    tokenizer = tokenizers["chatml"]
    ((cut,),) = run([talk("alpha beta " * 50, "gamma: delta")], tokenizer, max_tokens=40, over_long="truncate")
    assert cut.truncated
    assert len(cut.input_ids) == 40
    head, content = "<|im_start|>user\n", decoded(cut, tokenizer).split("\n")[1].removesuffix("<|im_end|>")
    assert ("alpha beta " * 50).endswith(content)
    assert decoded(cut, tokenizer) == head + content + "<|im_end|>\n<|im_start|>assistant\ngamma: delta<|im_end|>"
    assert decoded(cut, tokenizer, trained=True) == "gamma: delta<|im_end|>"
    assert set(cut.removed) == {"user", "assistant"}, "and the line break after the last answer"


def test_truncate_cuts_the_end_of_an_answer_that_is_too_long_alone(tokenizers):
    tokenizer = tokenizers["chatml"]
    ((cut,),) = run([talk("hi there", "alpha beta " * 50)], tokenizer, max_tokens=40, over_long="truncate")
    header = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    text = decoded(cut, tokenizer)
    assert text.startswith(header), "nothing is left of the question, all of its frame"
    assert ("alpha beta " * 50).startswith(text.removeprefix(header))
    assert decoded(cut, tokenizer, trained=True) == text.removeprefix(header)
    assert len(cut.input_ids) == 40


def test_truncate_drops_the_oldest_turns_and_keeps_the_system_turn(tokenizers):
    tokenizer = tokenizers["chatml"]
    turns = [talk(f"question {i}", f"answer {i}").messages for i in range(9)]
    conversation = Conversation(1, (Message("system", "be brief"), *(one for pair in turns for one in pair)))
    ((whole,),) = run([conversation], tokenizer)
    ((cut,),) = run([conversation], tokenizer, max_tokens=len(whole.input_ids) // 2, over_long="truncate")
    text = decoded(cut, tokenizer)
    assert text.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("<|im_start|>assistant\nanswer 8<|im_end|>")
    assert text.count("<|im_start|>") == text.count("<|im_end|>")
    assert text.count("<|im_start|>user\n") == text.count("<|im_start|>assistant\n")
    kept = [number for number in range(9) if f"answer {number}<" in text]
    assert kept == list(range(kept[0], 9))
    assert len(kept) >= 3
    assert len(cut.input_ids) <= len(whole.input_ids) // 2
    assert sum(cut.removed.values()) == len(whole.input_ids) - len(cut.input_ids)


def test_truncate_cuts_the_system_turn_before_an_answer(tokenizers):
    tokenizer = tokenizers["chatml"]
    conversation = Conversation(1, (Message("system", "alpha beta " * 50), *talk("hi", "gamma").messages))
    ((cut,),) = run([conversation], tokenizer, max_tokens=40, over_long="truncate")
    text = decoded(cut, tokenizer)
    assert text.startswith("<|im_start|>system\nalpha beta alpha")
    assert text.endswith("<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\ngamma<|im_end|>")


def test_a_row_that_no_frame_fits_is_refused(tokenizers):
    (refused,) = run([talk("hi", "gamma")], tokenizers["chatml"], max_tokens=8, over_long="truncate")
    assert refused.reason == "over_long"


def test_plain_text_splits_into_consecutive_chunks(tokenizers):
    text = Conversation(1, (Message("text", "alpha beta gamma: " * 60),))
    ((whole,),) = run([text], tokenizers["chatml"])
    (parts,) = run([text], tokenizers["chatml"], max_tokens=50, over_long="split")
    assert [part.start for part in parts] == [49 * index for index in range(len(parts))]
    assert all(len(part.input_ids) == 50 for part in parts[:-1])
    assert not any(part.truncated for part in parts)
    assert sum(int(np.count_nonzero(part.target)) for part in parts) == len(whole.input_ids) - 1


def test_windows_without_a_target_are_not_made(tokenizers):
    conversation = talk("alpha beta " * 100, "gamma", "naïve café " * 100, "delta")
    ((whole,),) = run([conversation], tokenizers["chatml"])
    (parts,) = run([conversation], tokenizers["chatml"], max_tokens=40, over_long="split")
    assert len(parts) == 2
    assert len(whole.input_ids) > 300
    for part in parts:
        check_part(part, whole)
        assert np.flatnonzero(part.target)[0] == 20, "half of it is context"


turns = st.lists(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join), min_size=2, max_size=8)


@settings(max_examples=40, deadline=None)
@given(turns=turns, limit=st.integers(8, 60), muted=st.booleans(), plain=st.booleans())
def test_split_trains_every_target_once(tokenizers, turns, limit, muted, plain):
    conversation = talk(*turns[: len(turns) // 2 * 2], muted=(1,) if muted else ())
    if plain:
        conversation = Conversation(1, (Message("text", "\n".join(turns)),))
    (found,) = run([conversation], tokenizers["chatml"])
    (parts,) = run([conversation], tokenizers["chatml"], max_tokens=limit, over_long="split")
    if isinstance(found, Refusal):
        assert parts == found
        return
    (whole,) = found
    trained: Counter[int] = Counter()
    for part in parts:
        check_part(part, whole)
        assert len(part.input_ids) <= limit
        assert np.any(part.target)
        trained.update((part.start + np.flatnonzero(part.target)).tolist())
        if part.start:
            assert np.flatnonzero(part.target)[0] <= max(1, limit // 2)
    assert trained == Counter(np.flatnonzero(whole.target).tolist())
    assert sum(part.straddles for part in parts) <= whole.straddles


@settings(max_examples=25, deadline=None)
@given(turns=turns, limit=st.integers(8, 60))
@example(turns=["", "alpha", "", ""], limit=12)
def test_truncate_loses_no_more_than_it_must(tokenizers, turns, limit):
    tokenizer = tokenizers["chatml"]
    conversation = talk(*turns[: len(turns) // 2 * 2])
    (found,) = run([conversation], tokenizer)
    (cut,) = run([conversation], tokenizer, max_tokens=limit, over_long="truncate")
    if isinstance(cut, Refusal):
        assert cut.reason == "over_long"
        return
    (whole,), (part,) = found, cut
    assert len(part.input_ids) <= limit
    assert part.truncated is (len(whole.input_ids) > limit)
    assert np.any(part.target)
    end = int(np.flatnonzero(part.target)[-1]) + 1  # what follows ends anywhere: nothing that is trained sees it
    text = decoded(part._replace(input_ids=part.input_ids[:end]), tokenizer)
    frames = re.sub(r"\A<\|im_start\|>user\n|<\|im_end\|>\n<\|im_start\|>(user|assistant)\n", "", text)
    assert "<|im_start|>" not in frames, "headers are whole"
