"""What becomes of samples that are too long. The reference is the whole sample, token by token."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.chat import encode
from raysft.data.records import Conversation, Message, Refusal
from raysft.data.tokenizer import template_for

WORDS = ("alpha", "beta", "\n\n", ":", "7 + 35 = 42", "你好", "naïve", "🙂", " ")


def run(conversations, tokenizer, *, max_tokens=10**6, over_long="drop", train_on="all"):
    template = template_for("chatml", tokenizer)
    return encode(conversations, tokenizer, template, train_on=train_on, max_tokens=max_tokens, over_long=over_long)


def talk(*turns: str, id: int = 1, muted: tuple[int, ...] = ()) -> Conversation:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], turn, False if i in muted else None) for i, turn in enumerate(turns)]
    return Conversation(id, tuple(messages))


def check_part(part, whole) -> None:
    stop = part.start + len(part.input_ids)
    assert part.input_ids.tolist() == whole.input_ids[part.start : stop].tolist()
    assert part.target[0] == 0, "nothing predicts the first token"
    assert not np.any((part.target > 0) & (whole.target[part.start : stop] == 0))


def test_results_are_in_order_beside_refusals(tokenizers):
    conversations = [talk("a", "x", id=3), talk("a", "\ud800", id=4), talk("a", "y" * 9, id=5)]
    (first,), refused, (last,) = run(conversations, tokenizers["chatml"])
    assert (first.sample_id, refused.reason, last.sample_id) == (3, "invalid_unicode", 5)
    for index, found in ((0, first), (2, last)):
        ((alone,),) = run([conversations[index]], tokenizers["chatml"])
        assert alone.input_ids.tolist() == found.input_ids.tolist()
        assert alone.target.tolist() == found.target.tolist()
    assert run([], tokenizers["chatml"]) == []


def test_drop(tokenizers):
    (refused,) = run([talk("hi", "alpha beta " * 50)], tokenizers["chatml"], max_tokens=40)
    assert isinstance(refused, Refusal)
    assert refused.reason == "over_long"
    assert "at most 40" in refused.detail


def test_truncate_keeps_the_answer_of_a_long_prompt(tokenizers):
    tokenizer = tokenizers["chatml"]
    conversation = talk("alpha beta " * 50, "gamma: delta")
    ((whole,),) = run([conversation], tokenizer)
    ((cut,),) = run([conversation], tokenizer, max_tokens=40, over_long="truncate")
    assert cut.truncated
    assert not whole.truncated
    assert cut.input_ids.tolist() == whole.input_ids[-40:].tolist()
    assert cut.target.tolist() == whole.target[-40:].tolist()
    assert tokenizer.decode(cut.input_ids[cut.target > 0]) == "gamma: delta<|im_end|>"


def test_truncate_cuts_the_end_of_an_answer_that_is_too_long_alone(tokenizers):
    conversation = talk("hi there", "alpha beta " * 50)
    ((whole,),) = run([conversation], tokenizers["chatml"])
    ((cut,),) = run([conversation], tokenizers["chatml"], max_tokens=40, over_long="truncate")
    first = int(np.flatnonzero(whole.target)[0])
    assert cut.start == first - 1, "one token stays to predict the first target"
    assert cut.target.tolist() == [0.0] + [1.0] * 39
    check_part(cut, whole)


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
def test_truncate_loses_no_more_than_it_must(tokenizers, turns, limit):
    (found,) = run([talk(*turns[: len(turns) // 2 * 2])], tokenizers["chatml"])
    (cut,) = run([talk(*turns[: len(turns) // 2 * 2])], tokenizers["chatml"], max_tokens=limit, over_long="truncate")
    (whole,), (part,) = found, cut
    check_part(part, whole)
    assert len(part.input_ids) == min(limit, len(whole.input_ids))
    assert part.truncated is (len(whole.input_ids) > limit)
    first = int(np.flatnonzero(whole.target)[0])
    assert part.target[first - part.start] == 1, "the first target is kept"
    if part.start + limit < len(whole.input_ids):
        assert part.start == first - 1, "the end is cut only when nothing is left in front"


@pytest.mark.parametrize("train_on", ["all", "last"])
def test_nothing_trained_is_a_refusal(tokenizers, train_on):
    (refused,) = run([talk("a", "b", muted=(1,))], tokenizers["chatml"], train_on=train_on)
    assert refused.reason == "no_target_tokens"
