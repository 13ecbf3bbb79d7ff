"""What a trained answer ends with: a token that generation stops at, or the run does not start."""

from __future__ import annotations

import copy
import json

import pytest
from chats import CHATML, PAIRS, tokenizer_of

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import encode
from raysft.data.text.rendering import render_last
from raysft.data.text.stops import model_stop_ids, recipe_template, stop_token_ids
from raysft.data.text.tokenizer import template_for
from raysft.errors import DataError
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.model import ModelSection

TALK = Conversation(
    1, (Message("user", "hi"), Message("assistant", "yes"), Message("user", "and?"), Message("assistant", "7"))
)
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + END + '\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"


def with_template(pair: str, template: str):
    tokenizer = copy.deepcopy(tokenizer_of(pair))
    tokenizer.chat_template = template
    return tokenizer


def trained(tokenizer, *, template=None, train_on="all", **how) -> str:
    template = template or template_for("tokenizer", tokenizer)
    ((found,),) = encode([TALK], tokenizer, template, train_on=train_on, max_tokens=999, over_long="drop", **how)
    return tokenizer.decode(found.input_ids[found.target > 0], skip_special_tokens=False)


ENDS = {
    "chatml of a base, digits": "yes<|im_end|>7<|im_end|>",  # not the end of text, but the template's own end
    "llama2, first": " yes </s> 7 </s>",  # a blank before it
    "phi3, prepend": " yes<|end|> 7<|end|>",  # the text then ends with the end of text
    "gemma, never": "yes<end_of_turn>7<end_of_turn>",
    "command r7b, gpt2": "<|START_RESPONSE|>yes<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    "<|START_RESPONSE|>7<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",  # two tokens
    "deepseek, digits": "yes<｜end▁of▁sentence｜>7<｜end▁of▁sentence｜>",
    "vicuna, gpt2": " yes</s> 7</s>",
    "blocks, one digit": "yes<|im_end|>7<|im_end|>",
}


@pytest.mark.parametrize("name", ENDS)
def test_an_answer_is_trained_to_its_stop(name):
    assert trained(tokenizer_of(name)) == ENDS[name]


def test_an_end_of_turn_that_is_not_flagged_special():
    tokenizer = with_template("vicuna, gpt2", CHATML)
    tokenizer.backend_tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    assert trained(tokenizer) == "yes<|im_end|>7<|im_end|>"


BLOCK = "{% generation %}{{ m.content }}{% endgeneration %}"
IN_BLOCK = CHATML.replace(
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}",
    "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    + BLOCK
    + "{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>\n' }}",
)


def test_a_block_without_the_stop_is_carried_on_to_it():
    assert trained(with_template("chatml, gpt2", IN_BLOCK)) == "yes<|im_end|>7<|im_end|>"


def test_a_run_whose_answers_do_not_stop_does_not_start():
    tokenizer = with_template("vicuna, gpt2", PLAIN.replace(" + END", "") + PROMPT)
    with pytest.raises(DataError) as raised:
        trained(tokenizer)
    told = str(raised.value)
    assert "does not end in a token that generation stops at" in told
    assert "</s>" in told, "which token would"
    assert "data.stop: append" in told
    assert "data.stop: accept" in told
    assert trained(tokenizer, stop="append") == " yes</s> 7</s>"
    assert trained(tokenizer, stop="accept") == " yes 7"


def test_only_the_last_answer_stops():
    tokenizer = with_template(
        "vicuna, gpt2", PLAIN.replace("END", "(eos_token if loop.last and m.role != 'user' else '')") + PROMPT
    )
    with pytest.raises(DataError, match="train_on: last"):
        trained(tokenizer)
    assert trained(tokenizer, train_on="last") == " 7</s>"
    assert trained(tokenizer, stop="append") == " yes</s> 7</s>"
    with pytest.raises(DataError, match="does not end"):
        trained(tokenizer_of("harmony, digits"))
    assert trained(tokenizer_of("harmony, digits"), train_on="last").endswith("7<|return|>")


def test_an_end_that_is_the_next_turn(tmp_path):
    """GLM-4 ends a turn with the header of the next one, which its generation_config names as a stop."""
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
    tokenizer = with_template("vicuna, gpt2", template + "{% if add_generation_prompt %}<|assistant|>{% endif %}")
    tokenizer.backend_tokenizer.add_special_tokens(["<|user|>", "<|assistant|>"])
    stops = template_for("tokenizer", tokenizer, stops=("<|user|>",))
    with pytest.raises(DataError, match="does not end"):
        trained(tokenizer, template=stops)
    assert trained(tokenizer, template=stops, stop="append") == "yes<|user|>7</s>"


def test_nothing_can_be_appended_without_an_end_of_text():
    tokenizer = with_template("vicuna, gpt2", PLAIN.replace(" + END", "") + PROMPT)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no token to append"):
        trained(tokenizer, stop="append")


def test_appended_answers_can_be_cut():
    tokenizer = with_template("vicuna, gpt2", PLAIN.replace(" + END", "") + PROMPT)
    long = Conversation(1, (Message("user", "sea " * 60), Message("assistant", "yes")))
    ((cut,),) = encode(
        [long],
        tokenizer,
        template_for("tokenizer", tokenizer),
        train_on="all",
        max_tokens=30,
        over_long="truncate",
        stop="append",
    )
    assert tokenizer.decode(cut.input_ids).startswith("user: ")
    assert tokenizer.decode(cut.input_ids[cut.target > 0]) == " yes</s>"


def recipe_of(tmp_path, tokenizer, files) -> Recipe:
    tokenizer.save_pretrained(tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    return Recipe(name="r", model=ModelSection(source=str(tmp_path)), data=DataSection(train=("a.jsonl",)))


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"generation_config.json": {"eos_token_id": [5, 7]}, "config.json": {"eos_token_id": 3}}, [5, 7]),
        ({"config.json": {"eos_token_id": 3}}, [3]),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": None}}, []),
        ({}, []),
    ],
)
def test_what_a_model_names_as_its_stops(tmp_path, files, ids):
    recipe = recipe_of(tmp_path, tokenizer_of("chatml of a base, digits"), files)
    assert model_stop_ids(recipe) == ids


def test_what_an_export_stops_at(tmp_path):
    """The end of text, what the model it starts from names, and the template's end of turn."""
    tokenizer = tokenizer_of("chatml of a base, digits")
    recipe = recipe_of(tmp_path, tokenizer, {"generation_config.json": {"eos_token_id": 7}})
    expected = {7, *tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])}
    assert set(stop_token_ids(recipe, tokenizer)) == expected
    assert tokenizer.convert_ids_to_tokens(7) in recipe_template(recipe, tokenizer).special_tokens.stops
    assert PAIRS["chatml of a base, digits"].eos == "<|endoftext|>"


def test_the_reference_of_an_answer_is_all_that_the_model_has_to_say():
    """Evaluation asks with the prompt that ends where training begins, and compares with what comes after it."""
    expected = {
        "command r7b, gpt2": "<|START_RESPONSE|>7<|END_RESPONSE|>",
        "qwen3, one digit": "<think>\n\n</think>\n\n7",
        "llama2, first": " 7 ",
        "harmony, digits": "final7",
    }
    for name, reference in expected.items():
        tokenizer = tokenizer_of(name)
        prompt, said = render_last(TALK, template_for("tokenizer", tokenizer))
        messages = [{"role": message.role, "content": message.content} for message in TALK.messages[:-1]]
        assert prompt == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert said == reference
