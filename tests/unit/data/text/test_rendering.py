from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import (
    BUILT_IN,
    Template,
    encode,
    render,
    render_prompt,
)
from raysft.data.text.tokenizer import template_for


def conversation(*turns: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(5, tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns)))


@pytest.mark.parametrize("name", BUILT_IN)
def test_prompts_are_what_generation_would_see(name, tokenizers):
    tokenizer: PreTrainedTokenizerFast = tokenizers[name]
    template = template_for(name, tokenizer)
    talk = conversation("hi", "one", "and?", "two")
    plain = [{"role": message.role, "content": message.content} for message in talk.messages[:3]]
    theirs = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert render_prompt(talk, template) == theirs


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


@pytest.mark.parametrize("name", [*BUILT_IN, "tokenizer"])
def test_plain_text_is_itself_and_the_end_of_text(name, tokenizers):
    tokenizer = tokenizers["chatml" if name == "tokenizer" else name]
    talk = Conversation(1, (Message("text", "alpha beta\n"),))
    ((example,),) = encode(
        [talk], tokenizer, template_for(name, tokenizer), train_on="last", max_tokens=99, over_long="drop"
    )
    assert tokenizer.decode(example.input_ids) == "alpha beta\n" + tokenizer.eos_token
    assert example.target.tolist() == [0.0] + [1.0] * (len(example.input_ids) - 1)
