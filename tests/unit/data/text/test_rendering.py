from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.chat import (
    BUILT_IN,
    SpecialTokens,
    Template,
    encode,
    render,
    render_prompt,
    resolve_template,
    special_tokens_in,
)
from raysft.data.text.tokenizer import template_for
from raysft.errors import DataError

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


def test_reserved_characters_are_refused():
    assert render(conversation("a", "\ufdd0b"), resolve_template("chatml", None)).reason == "reserved_character"


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


@pytest.mark.parametrize("name", BUILT_IN)
def test_prompts_are_what_generation_would_see(name, tokenizers):
    tokenizer: PreTrainedTokenizerFast = tokenizers[name]
    template = template_for(name, tokenizer)
    talk = conversation("hi", "one", "and?", "two")
    plain = [{"role": message.role, "content": message.content} for message in talk.messages[:3]]
    theirs = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert render_prompt(talk, template) == theirs


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


def test_templates_cannot_reach_python():
    talk = conversation("a", "b")
    source = "{% generation %}{{ messages.__class__.__mro__ }}{% endgeneration %}"
    assert render(talk, Template("own", source)).reason == "template_refused"
    source = "{% generation %}{{ messages.append(1) }}{% endgeneration %}"
    assert render(talk, Template("own", source)).reason == "template_refused"


def test_the_date_is_fixed():
    source = "{{ strftime_now('%Y') }}{% generation %}{{ messages[1].content }}{% endgeneration %}"
    assert render(conversation("a", "b"), Template("own", source)).text == "2024b"


def test_the_first_token_is_never_a_target(tokenizers):
    source = "{% generation %}{{ messages[1].content }}{% endgeneration %}"
    ((result,),) = encode(
        [conversation("", "alpha beta")],
        tokenizers["chatml"],
        Template("own", source),
        train_on="all",
        max_tokens=99,
        over_long="drop",
        stop="accept",
    )
    assert result.target[0] == 0
    assert result.target[1:].all()


def test_a_generation_block_keeps_its_own_variables():
    """As in transformers, what is set in a block is not seen after it."""
    source = "{% set x = 'a' %}{% generation %}{% set x = 'b' %}{{ x }}{% endgeneration %}{{ x }}"
    rendered = render(conversation("q", "a"), Template("own", source))
    assert (rendered.text, rendered.answers) == ("ba", ((0, 1),))


def test_templates_see_keys_and_methods_of_messages():
    """The quick way to a message's keys finds what jinja2's own finds."""
    source = (
        "{% for m in messages %}{{ m.role }}{{ m['content'] }}{{ m.name is defined }}{{ m.get('x', 1) }}"
        "{{ m.items() | length }}{{ 'role' in m }}{{ m.keys is callable }}{% endfor %}"
        "{% generation %}{{ messages[1].content }}{% endgeneration %}"
    )
    assert render(conversation("q", "a"), Template("own", source)).text == (
        "userqFalse12TrueTrue" + "assistantaFalse12TrueTrue" + "a"
    )


@pytest.mark.parametrize("expression", ["1 // 0", "messages[9].content", "tools.x.y", "'a' + 1"])
def test_what_fails_in_a_template_is_a_refusal(expression):
    source = "{{ " + expression + " }}{% generation %}{% endgeneration %}"
    assert render(conversation("q", "a"), Template("own", source)).reason == "template_refused"


def test_marks_in_tool_calls_are_refused():
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "\ufdd0y\ufdd1"}}}
    talk = Conversation(1, (Message("user", "a"), Message("assistant", "", tool_calls=(call,))))
    assert render(talk, resolve_template("llama3", None)).reason == "reserved_character"


@pytest.mark.parametrize("name", [*BUILT_IN, "tokenizer"])
def test_plain_text_is_itself_and_the_end_of_text(name, tokenizers):
    tokenizer = tokenizers["chatml" if name == "tokenizer" else name]
    talk = Conversation(1, (Message("text", "alpha beta\n"),))
    ((example,),) = encode(
        [talk], tokenizer, template_for(name, tokenizer), train_on="last", max_tokens=99, over_long="drop"
    )
    assert tokenizer.decode(example.input_ids) == "alpha beta\n" + tokenizer.eos_token
    assert example.target.tolist() == [0.0] + [1.0] * (len(example.input_ids) - 1)


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
