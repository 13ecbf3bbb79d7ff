"""Which template writes a record, and which cannot be had."""

from __future__ import annotations

import copy

import pytest
from chats import CHATML, QWEN3, VICUNA, tokenizer_of

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import (
    BUILT_IN,
    render,
    resolve_template,
)
from raysft.data.text.tokenizer import template_for
from raysft.errors import DataError

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def conversation(*turns: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(5, tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)))


@pytest.mark.parametrize("name", BUILT_IN)
def test_transformers_renders_our_templates_alike(name, tokenizers):
    template = template_for("tokenizer", tokenizers[name])
    talk = conversation("hi", "\n one ", "and?", "two\n")
    plain = [{"role": message.role, "content": message.content} for message in talk.messages]
    assert render(talk, template).text == tokenizers[name].apply_chat_template(plain, tokenize=False)


def test_unknown_and_missing_templates(tmp_path):
    with pytest.raises(DataError, match="did you mean 'llama3'"):
        resolve_template("llama_3", None)
    with pytest.raises(DataError, match="no chat template of its own"):
        resolve_template("tokenizer", None)
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for m in messages %}")
    with pytest.raises(DataError, match="not valid Jinja"):
        resolve_template(str(broken), None)
    own = tmp_path / "own.jinja"
    own.write_text(PLAIN)
    assert resolve_template(str(own), None).name == "own.jinja"


TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}


def tokenizer_with(template):
    tokenizer = copy.deepcopy(tokenizer_of("qwen3, one digit"))
    tokenizer.chat_template = template
    return tokenizer


def user(text: str) -> Message:
    return Message("user", text)


def answer(text: str, **more) -> Message:
    return Message("assistant", text, **more)


def test_templates_are_chosen_as_transformers_does():
    tokenizer = tokenizer_with({"default": CHATML, "tool_use": QWEN3, "rag": VICUNA})
    template = template_for("tokenizer", tokenizer)
    plain = Conversation(1, (user("a"), answer("b")))
    with_tools = Conversation(1, (user("a"), answer("b")), tools=(TOOL,))
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert render(plain, template).text == tokenizer.apply_chat_template(messages, tokenize=False)
    theirs = tokenizer.apply_chat_template(messages, tools=[TOOL], tokenize=False)
    assert render(with_tools, template).text == theirs
    assert [template.for_record(talk).name for talk in (plain, with_tools)] == ["default", "tool_use"]
    assert render(plain, template_for("rag", tokenizer)).text.startswith("USER: ")
    with pytest.raises(DataError, match=r"none of them the default"):
        template_for("tokenizer", tokenizer_with({"tool_use": QWEN3, "rag": VICUNA}))
    with pytest.raises(DataError, match="'rag'"):
        template_for("ragg", tokenizer)


def test_a_tokenizer_without_tool_use_keeps_to_its_default():
    template = template_for("tokenizer", tokenizer_with({"default": QWEN3, "rag": CHATML}))
    assert template.for_record(Conversation(1, (user("a"),), tools=(TOOL,))).name == "default"
