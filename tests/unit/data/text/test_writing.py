"""What a template sees of a conversation, and the texts that it may not hold."""

from __future__ import annotations

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import (
    Template,
    render,
    resolve_template,
    special_tokens_in,
)


def conversation(*turns: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(5, tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)))


def test_reserved_characters_are_refused():
    assert render(conversation("a", "\ufdd0b"), resolve_template("chatml", None)).reason == "reserved_character"


def test_marks_in_tool_calls_are_refused():
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "\ufdd0y\ufdd1"}}}
    talk = Conversation(1, (Message("user", "a"), Message("assistant", "", tool_calls=(call,))))
    assert render(talk, resolve_template("llama3", None)).reason == "reserved_character"


def test_special_tokens_in_the_own_text():
    specials = ("<|im_end|>", "<|im_start|>", "<s>", "")
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "<s>"}}}
    assert special_tokens_in(conversation("a <|im_ end|>", "b <s"), specials) is None
    assert special_tokens_in(conversation("a", "b<|im_start|>c<|im_end|>"), specials) == "<|im_start|>"
    assert special_tokens_in(Conversation(1, (Message("assistant", "", tool_calls=(call,)),)), specials) == "<s>"
    assert special_tokens_in(conversation("a", "b"), ()) is None
    assert special_tokens_in(conversation("<s>[INST]", "b"), ("<s", "<s>")) == "<s>", "the longest"


def test_a_template_gets_the_reasoning_and_the_name_of_a_turn():
    text = (
        "{% for m in messages %}{% generation %}{{ m.reasoning_content }}|{{ m.thinking }}|"
        "{{ m.name }}|{{ m.content }};"
        "{% endgeneration %}{% endfor %}"
    )
    messages = (Message("tool", "4 C", name="weather"), Message("assistant", "a", reasoning="r"))
    rendered = render(Conversation(0, messages), Template("own", text))
    assert rendered.text == "||weather|4 C;r|r||a;"
    assert special_tokens_in(Conversation(0, messages), ["r"]) == "r"
