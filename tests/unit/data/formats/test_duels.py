"""Public sets of two answers and a verdict, their columns as they have them: the better one is preferred."""

from __future__ import annotations

from typing import Any

import pytest

from raysft.data.formats import Reading, read_record
from raysft.data.records import Conversation, Refusal

ASKED = {"role": "user", "content": "q"}


def talk(answer: str) -> list[dict[str, str]]:
    return [ASKED, {"role": "assistant", "content": answer}]


PKU = {"prompt": "q", "response_0": "x", "response_1": "y", "safer_response_id": 0, "is_response_0_safe": True}
SHP = {"post_id": "i", "history": "q", "human_ref_A": "x", "human_ref_B": "y", "score_A": 9, "score_B": 3}
WEBGPT = {"question": {"id": "i", "full_text": "q"}, "answer_0": "x", "answer_1": "y", "tokens_0": {}}
STEER_2 = {"prompt": "q", "response_1": "x", "response_2": "y", "preference_statement": "s"}
STEER_3 = {"domain": "code", "context": [ASKED], "response1": "x", "response2": "y", "individual_preference": []}
ARENA = {"model_a": "m", "model_b": "n", "conversation_a": talk("x"), "conversation_b": talk("y"), "turn": 1}
BATTLE = {"prompt": "q", "response_a": "x", "response_b": "y"}


@pytest.mark.parametrize(
    ("record", "scores"),
    [
        ({**PKU, "better_response_id": 0}, (1.0, 0.0)),
        ({**PKU, "better_response_id": "1"}, (0.0, 1.0)),
        ({**SHP, "labels": 1}, (1.0, 0.0)),
        ({**SHP, "labels": 0}, (0.0, 1.0)),
        ({**WEBGPT, "score_0": -0.5, "score_1": 0.5}, (-0.5, 0.5)),
        ({**STEER_2, "preference_strength": -3}, (3.0, 0.0)),
        ({**STEER_2, "preference_strength": 0}, (0.0, 0.0)),
        ({**STEER_3, "overall_preference": 2}, (0.0, 2.0)),
        ({**ARENA, "winner": "model_a"}, (1.0, 0.0)),
        ({**ARENA, "winner": "model_b"}, (0.0, 1.0)),
        ({**BATTLE, "winner": "B"}, (0.0, 1.0)),
        ({**BATTLE, "winner": "tie (bothbad)"}, (0.0, 0.0)),
    ],
)
def test_the_better_answer_is_preferred(record: dict[str, Any], scores: tuple[float, float]) -> None:
    found = read_record(record, Reading(), id=1, source="s")
    assert isinstance(found, tuple), found
    [conversation] = found
    assert isinstance(conversation, Conversation)
    told = {candidate.messages[-1].content: candidate.score for candidate in conversation.candidates}
    assert told == dict(zip("xy", scores, strict=True))
    better = "y" if scores[1] > scores[0] else "x"
    assert [(m.role, m.content) for m in conversation.messages] == [("user", "q"), ("assistant", better)]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({**PKU, "better_response_id": 2}, "one of 0, 1, got 2"),
        ({**SHP, "labels": None}, "one of 1, 0"),
        ({**WEBGPT, "score_0": 1.0, "score_1": "?"}, "two numbers, got 1.0, '?'"),
        ({**STEER_2, "preference_strength": float("nan")}, "a number, below 0"),
        ({**ARENA, "winner": "model_c"}, "model_b"),
        ({**ARENA, "winner": ["model_a"]}, "model_b"),
        ({**ARENA, "winner": "tie"}, "neither answer is better: 'tie'"),
        (PKU, "columns seen"),
    ],
)
def test_a_verdict_that_is_none_is_refused(record: dict[str, Any], told: str) -> None:
    found = read_record(record, Reading(), id=1, source="s")
    assert isinstance(found, Refusal)
    assert told in found.detail
