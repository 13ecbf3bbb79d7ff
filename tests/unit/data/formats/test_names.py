"""What the name of a key says of its value."""

from __future__ import annotations

import pytest
from records import A, U, kept, refused

from raysft.data.formats.names import is_harmless, meaning_of


@pytest.mark.parametrize("name", ["train_detail", "assistant_masks", "labels", "completion_mask", "loss_mask"])
def test_flags_that_cannot_be_followed_are_refused_by_name(name: str) -> None:
    inside = {"messages": [U, {**A, name: [1, 0]}]}
    read_inside = name in ("loss_mask", "train_detail")
    assert refused(inside).reason == ("wrong_type" if read_inside else f"unread:{name}")
    assert refused({"messages": [U, A], name: [1, 0]}).reason == f"unread:{name}"
    assert kept({"messages": [U, A], name: [1, 0]}, ignored=frozenset((name,))).notes[0].kind == "ignored"


@pytest.mark.parametrize(
    ("name", "off"),
    [
        *(("ignore", True), ("masked", True), ("is_masked", 1), ("skip", True), ("deleted", True), ("noLoss", True)),
        *(
            ("compute_loss", False),
            ("learn", 0),
            ("train_on_turn", False),
            ("supervised", False),
            ("do_not_train", 1),
        ),
    ],
)
def test_a_flag_in_other_words_refuses_a_turn_that_it_leaves_out(name: str, off: object) -> None:
    assert refused({"messages": [U, {**A, name: off}]}).reason == f"unread:{name}"
    assert [note.kind for note in kept({"messages": [U, {**A, name: not off}]}).notes] == ["unread"]
    assert [note.kind for note in kept({"messages": [U, {**A, name: "maybe"}]}).notes] == ["unread"]


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "prompt_id",
        "source",
        "created_at",
        "num_turns",
        "score_chosen",
        "Unnamed: 0",
        "__index_level_0__",
        "uuid",
    ],
)
def test_harmless_names(name: str) -> None:
    assert is_harmless(name)
    assert meaning_of(name) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("reasoning", "reasoning"), ("Complex_CoT", "reasoning"), ("thinkingTrace", "reasoning")),
        *(("SystemPrompt", "system prompt"), ("available_tools", "tools"), ("loss_mask", "loss flag")),
        *(
            ("retrieved_documents", "documents"),
            ("model_responses", "several answers"),
            ("mood", None),
            ("思考", None),
        ),
    ],
)
def test_names_that_carry_meaning(name: str, kind: str | None) -> None:
    assert meaning_of(name) == kind
    assert not is_harmless(name) or kind
