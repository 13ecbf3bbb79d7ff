"""What a template leaves out refuses the record by name; what it writes otherwise does not."""

from __future__ import annotations

import copy

import pytest
from chats import CHATML, HARMONY, QWEN3, VICUNA, tokenizer_of

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.chat import encode
from raysft.data.text.tokenizer import template_for

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
CALL = {"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"town": "Oslo ÄÖ"}}}


def tokenizer_with(template):
    tokenizer = copy.deepcopy(tokenizer_of("qwen3, one digit"))
    tokenizer.chat_template = template
    return tokenizer


def result_of(template, *messages, tools=(), **how):
    tokenizer = tokenizer_with(template)
    how = {"train_on": "all", "max_tokens": 9999, "over_long": "drop", "stop": "accept", **how}
    resolved = template_for("tokenizer", tokenizer)
    (found,) = encode([Conversation(1, messages, tools=tuple(tools))], tokenizer, resolved, **how)
    return found


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str, **more) -> Message:
    return Message("assistant", text, **more)


def check_refused(found, missing: str) -> None:
    assert isinstance(found, Refusal)
    assert found.reason == "left_out"
    assert missing in found.detail
    assert "what would keep it" in found.detail


@pytest.mark.parametrize("template", [CHATML, VICUNA])
def test_reasoning_that_a_template_does_not_know(template):
    check_refused(result_of(template, user("a"), answer("12", reasoning="3 * 4")), "the reasoning of message 2")


def test_reasoning_that_is_written_is_trained():
    tokenizer = tokenizer_with(QWEN3)
    (example,) = result_of(QWEN3, user("legs?"), answer("12", reasoning="3 * 4 = 12"))
    told = tokenizer.decode(example.input_ids[example.target > 0], skip_special_tokens=False)
    assert told == "<think>\n3 * 4 = 12\n</think>\n\n12<|im_end|>"
    (example,) = result_of(QWEN3, user("legs?"), answer("<think>\n3 * 4 = 12\n</think>\n\n12"))
    assert tokenizer.decode(example.input_ids[example.target > 0], skip_special_tokens=False) == told


def test_reasoning_of_an_earlier_turn():
    """The template drops it: as context that is right, as a trained answer it is another one."""
    turns = (user("a"), answer("12", reasoning="3 * 4"), user("b"), answer("20", reasoning="5 * 4"))
    refused = result_of(QWEN3, *turns)
    check_refused(refused, "the reasoning of message 2")
    assert "data.train_on: last" in refused.detail
    (example,) = result_of(QWEN3, *turns, train_on="last")
    assert example.target.any()


def test_an_answer_that_stands_in_its_reasoning_and_one_that_is_missing():
    (found,) = result_of(QWEN3, user("a"), answer("12", reasoning="it is 12"))
    assert found.target.any()
    swallows = CHATML.replace("m.content", "(m.reasoning_content or m.content)")
    check_refused(result_of(swallows, user("a"), answer("15", reasoning="it is 12")), "the text of message 2")


def test_harmony_has_a_channel_for_it():
    (example,) = result_of(HARMONY, user("a"), answer("12", reasoning="3 * 4"))
    assert example.target.any()


@pytest.mark.parametrize("role", ["system", "user", "tool"])
def test_texts_of_other_turns(role):
    drops = CHATML.replace("m.content", f"('' if m.role == '{role}' else m.content)")
    turns = [
        Message("system", "Be brief."),
        user("How far?"),
        answer("Far."),
        user("And back?"),
        Message("tool", "42 miles"),
        answer("As far."),
    ]
    number = [turn.role for turn in turns].index(role) + 1
    check_refused(result_of(drops, *turns), f"the text of message {number} ({role})")


def test_what_a_template_writes_otherwise_is_there():
    as_json = CHATML.replace("m.content", "(m.content | tojson if m.role == 'tool' else m.content | trim)")
    turns = (user(" a\n"), answer("b \n"), user("c"), Message("tool", '{"x": "é\n"}'), answer("d"))
    (example,) = result_of(as_json, *turns)
    assert example.target.any()
    first = "messages[0].content if m.role == 'user' else ''"
    late = (
        "{% for m in messages[1:] %}{{ '<|im_start|>' + (" + first + ") + m.content }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
    )
    (example,) = result_of(late, Message("system", "Be brief."), user("a"), answer("b"), user("c"), answer("d"))
    assert example.target.any(), "a system text may stand anywhere"


def test_tools_and_calls_that_are_not_written():
    call = answer("", tool_calls=(CALL,))
    check_refused(result_of(CHATML, user("a"), answer("b"), tools=(TOOL,)), "the name of the tool 'weather'")
    check_refused(result_of(CHATML, user("a"), call), "a tool call of message 2")
    names = QWEN3.replace("t | tojson", "t.function.name")
    check_refused(result_of(names, user("a"), answer("b"), tools=(TOOL,)), "the description of the tool 'weather'")
    no_arguments = QWEN3.replace("c.function.arguments | tojson", "'{}'")
    check_refused(result_of(no_arguments, user("a"), call, tools=(TOOL,)), "a tool call of message 2")


@pytest.mark.parametrize("layout", ["{x}", "{x:4}", "{x!r}"])
def test_calls_in_any_layout(layout):
    """Arguments as JSON, indented JSON or tags."""
    form = {
        "{x}": "c.function.arguments | tojson",
        "{x:4}": "c.function.arguments | tojson(indent=4, ensure_ascii=True)",
        "{x!r}": "'<town>' + c.function.arguments.town + '</town>'",
    }[layout]
    template = QWEN3.replace("c.function.arguments | tojson", f"({form})")
    turns = (user("a"), answer("", tool_calls=(CALL,)), Message("tool", "4 degrees"), answer("Cold."))
    (example,) = result_of(template, *turns, tools=(TOOL,))
    tokenizer = tokenizer_with(template)
    told = tokenizer.decode(example.input_ids[example.target > 0], skip_special_tokens=False)
    assert "weather" in told
    assert "town" in told
    assert told.count("<|im_end|>") == 2
    assert told.endswith("Cold.<|im_end|>")
