"""Which stretches of a written text are answers: by marks, by generation blocks, or refused."""

from __future__ import annotations

import pytest

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.chat import (
    SpecialTokens,
    Template,
    encode,
    render,
    resolve_template,
)

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


END = SpecialTokens(texts=("<|im_end|>", "<|im_start|>"))


def conversation(*turns: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(5, tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)))


def answers(talk: Conversation, template: Template) -> list[str]:
    rendered = render(talk, template)
    assert not isinstance(rendered, Refusal)
    return [rendered.text[start:end] for start, end in rendered.answers]


def test_without_generation_blocks_answers_are_found_by_marks():
    template = Template("own", PLAIN, END)
    assert answers(conversation("a", "b", "b", " \nb "), template) == ["b<|im_end|>", " \nb <|im_end|>"]


def test_a_template_that_trims_is_maskable():
    template = Template("own", PLAIN.replace("m.content", "m.content | trim"), END)
    assert answers(conversation("a", "\n b\n", "c", "d"), template) == ["b<|im_end|>", "d<|im_end|>"]


def test_marks_and_generation_blocks_agree(tokenizers):
    built_in = resolve_template("chatml", None)
    bare = Template("bare", built_in.text.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", ""), END)
    talk = conversation("hi", "\nhello", "你好", " 🙂 ok\n\n")
    assert not bare.has_generation_blocks
    assert (render(talk, bare).text, render(talk, bare).answers) == (
        render(talk, built_in).text,
        render(talk, built_in).answers,
    )
    arguments = {"train_on": "all", "max_tokens": 999, "over_long": "drop", "stop": "accept"}
    ((ours,),) = encode([talk], tokenizers["chatml"], built_in, **arguments)
    ((found,),) = encode([talk], tokenizers["chatml"], bare, **arguments)
    assert ours.target.tolist() == found.target.tolist()


def encoded(talk: Conversation, template: Template, tokenizer, **how):
    how = {"train_on": "all", "max_tokens": 999, "over_long": "drop", "stop": "accept", **how}
    (result,) = encode([talk], tokenizer, template, **how)
    return result


@pytest.mark.parametrize("filter", ["upper", "replace('b', '')", "reverse", "truncate(1, true, '', 0)", "length"])
def test_a_template_that_rewrites_answers_is_refused(filter, tokenizers):
    template = Template("own", PLAIN.replace("m.content", f"m.content | {filter} | string"), END)
    refused = encoded(conversation("a", "bcd"), template, tokenizers["chatml"])
    assert refused.reason == "left_out"
    assert "'own' leaves out the text of message" in refused.detail


def test_nested_generation_blocks_cannot_be_masked():
    source = "{% generation %}a{% generation %}b{% endgeneration %}{% endgeneration %}"
    refused = render(conversation("a", "b"), Template("own", source))
    assert refused.reason == "cannot_be_masked"
    for part in ("'own' cannot be masked", "chatml", "{% generation %}"):
        assert part in refused.detail, "it says what to do"


def test_a_template_that_drops_earlier_answers_is_refused(tokenizers):
    drops = PLAIN.replace("m.content", "m.content if m.role == 'user' or loop.last else ''")
    template = Template("own", drops, END)
    refused = encoded(conversation("a", "b", "c", "d"), template, tokenizers["chatml"])
    assert refused.reason == "left_out"
    assert "the text of message 2 (assistant)" in refused.detail
    assert answers(conversation("a", "b"), template) == ["b<|im_end|>"], "another record of the template is fine"


def test_a_template_that_drops_calls_is_refused(tokenizers):
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    talk = Conversation(1, (Message("user", "a"), Message("assistant", "", tool_calls=(call,))))
    refused = encoded(talk, Template("own", PLAIN, END), tokenizers["chatml"])
    assert refused.reason == "left_out"
    assert "a tool call of message 2 (assistant)" in refused.detail
    assert "tool_use" in refused.detail, "it says what would keep it"


def test_calls_are_trained_without_generation_blocks(tokenizers):
    """The region is the turn: from the end of the prompt to the end of the turn."""
    calls = (
        "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    )
    template = Template("own", PLAIN.replace("{{ m.content }}", "{{ m.content }}" + calls), END)
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    turns = (Message("user", "a"), Message("assistant", "so", tool_calls=(call,)), Message("tool", "r"))
    talk = Conversation(1, (*turns, Message("assistant", "b")))
    assert answers(talk, template) == ['so<call>f{"x": 1}<|im_end|>', "b<|im_end|>"]


def test_lone_surrogates_are_refused(tokenizers):
    (result,) = encode(
        [conversation("a", "\ud800b")],
        tokenizers["chatml"],
        resolve_template("chatml", None),
        train_on="all",
        max_tokens=99,
        over_long="drop",
        stop="accept",
    )
    assert result.reason == "invalid_unicode"
