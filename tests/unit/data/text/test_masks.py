"""The mask law over every template. Expected texts are built here, by hand, and share nothing with the package."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.chat import Example, Template, encode, render, trained_regions
from raysft.data.text.offsets import locate, tokenize
from raysft.data.text.tokenizer import template_for

TEMPLATES = ("chatml", "gemma", "llama3", "mistral", "qwen3", "zephyr")
END = {
    "chatml": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "mistral": "</s>",
    "gemma": "<end_of_turn>",
    "zephyr": "</s>",
}
HEAD = {
    "chatml": "<|im_start|>assistant\n",
    "qwen3": "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "[/INST]",
    "gemma": "<start_of_turn>model\n",
    "zephyr": "<|assistant|>\n",
}
NO_TOOLS = ("chatml", "gemma", "zephyr")
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "二"}}}


def talk(*turns: str, system: str | None = None) -> list[Message]:
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], turn) for i, turn in enumerate(turns)]
    return messages if system is None else [Message("system", system), *messages]


CASES = {
    "multi_turn": talk("hi", "hello: you", "and 7?", "42 of course"),
    "system": talk("hi", "hello", "more", "yes", system="be brief"),
    "empty_system": talk("hi", "hello", system=""),
    "unicode": talk("你好", "你好，世界 🙂🏽 naïve", "再来", "👩‍👩‍👧‍👦 好的。\n一"),
    "newline_first": talk("hi", "\nhello", "again", "\n\nalpha beta"),
    "newlines_and_spaces": talk("hi ", " \n\n alpha \n\n", "\n\nx", "\n\n\n"),
    "empty_turn": talk("hi", "", "again", "alpha"),
    "lone_answer": talk("", "7"),
}


def expected_answers(template: str, messages: list[Message]) -> list[str]:
    """What is trained, turn by turn, from the formats' descriptions."""
    answers = [message.content for message in messages if message.role == "assistant"]
    if template == "qwen3":  # a last turn without reasoning follows an empty block that ends its line breaks
        answers[-1] = answers[-1].lstrip("\n")
    return [answer + END[template] for answer in answers]


def encoded(messages, tokenizer, template, *, tools=(), train_on="all", stop="refuse"):
    conversation = Conversation(1, tuple(messages), tools=tuple(tools))
    (result,) = encode(
        [conversation], tokenizer, template, train_on=train_on, max_tokens=4096, over_long="drop", stop=stop
    )
    return conversation, result if isinstance(result, Refusal) else result[0]


def check_law(messages, expected, tokenizer, name, *, tools=()) -> int:
    """Decoded targets are the trained texts, and the tokens those of the text cut where answers begin.

    Returns how many answers the whole text's tokens would have joined with what stands before them.
    """
    template = template_for(name, tokenizer)
    conversation, result = encoded(messages, tokenizer, template, tools=tools)
    assert isinstance(result, Example), result
    text = tokenizer.decode(result.input_ids, skip_special_tokens=False)
    assert render(conversation, template).text == text, "the tokens are the whole text"
    assert tokenizer.decode(result.input_ids[result.target > 0], skip_special_tokens=False) == "".join(expected)
    assert result.straddles == 0
    # Recompute from the text alone: where each expected answer lies, searched for behind its header.
    ids, target, position, joined = [], [], 0, 0
    for answer in expected:
        start = find_answer(text, answer, name, position)
        pieces = [text[position:start], answer]
        for piece, trained in zip(pieces, (False, True), strict=True):
            own = tokenizer(piece, add_special_tokens=False).input_ids
            ids += own
            target += [trained] * len(own)
        whole = tokenizer(text[position : start + len(answer)], add_special_tokens=False).input_ids
        joined += len(whole) < len(tokenizer(pieces[0]).input_ids) + len(tokenizer(pieces[1]).input_ids)
        position = start + len(answer)
    rest = tokenizer(text[position:], add_special_tokens=False).input_ids
    assert result.input_ids.tolist() == ids + rest
    assert (result.target > 0).tolist() == target + [False] * len(rest)
    assert result.cuts >= joined
    return result.cuts


def find_answer(text: str, answer: str, name: str, position: int) -> int:
    headers = [HEAD[name], "[/TOOL_RESULTS]"] if name == "mistral" else [HEAD[name]]
    if name == "qwen3":
        headers = [HEAD[name] + "<think>\n\n</think>\n\n", HEAD[name]]
    starts = [text.find(header + answer, position) + len(header) for header in headers if header + answer in text]
    return min(start for start in starts if start >= position)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_targets_are_the_trained_text(name, case, tokenizers):
    messages = CASES[case]
    if name == "gemma" and messages[0].role == "system":
        _, result = encoded(messages, tokenizers[name], template_for(name, tokenizers[name]))
        assert result == Refusal("template_refused", "gemma: Gemma has no turn of role system")
        return
    check_law(messages, expected_answers(name, messages), tokenizers[name], name)


WORDS = ("alpha", "beta", ":", "7 + 35 = 42", "\n", "\n\n", " ", "gamma: delta", "x", ":\n", "naïve", "你好", "🙂")
random_turns = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map("".join), min_size=2, max_size=7)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=25, deadline=None)
@given(turns=random_turns, system=st.none() | st.just("be: brief\n"))
def test_random_conversations_keep_the_law(name, turns, system, tokenizers):
    """Also where line breaks of a header and an answer would be one token."""
    turns = turns[: len(turns) // 2 * 2]
    messages = talk(*turns, system=None if name == "gemma" else system)
    check_law(messages, expected_answers(name, messages), tokenizers[name], name)


@pytest.mark.parametrize("name", ["chatml", "gemma", "llama3", "qwen3", "zephyr"])
def test_an_answer_that_begins_with_a_newline_is_cut_from_its_header(name, tokenizers):
    assert check_law(*_newline_case(name), tokenizers[name], name) >= 1


def _newline_case(name):
    messages = CASES["newline_first"]
    return messages, expected_answers(name, messages)


def test_a_prompt_keeps_the_tokens_that_it_has_alone():
    """`:` + line break is one token alone, but in `:` + two line breaks the line breaks go together."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, "ĊĊ", ":Ċ"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "Ċ"), (":", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    source = "Q:\n{{ messages[0].content }}A:\n{% generation %}{{ messages[1].content }}{% endgeneration %}"
    for answer, breaks in (("7", False), ("\n7", True)):
        conversation, result = encoded(talk("?", answer), tokenizer, Template("own", source), stop="accept")
        text = render(conversation, Template("own", source)).text
        assert text == "Q:\n?A:\n" + answer
        prompt = tokenizer(text[: -len(answer)], add_special_tokens=False).input_ids
        assert result.input_ids.tolist() == prompt + tokenizer(answer, add_special_tokens=False).input_ids
        assert (result.target > 0).tolist() == [False] * len(prompt) + [True] * len(answer)
        assert (result.straddles, result.cuts) == (0, int(breaks))
        assert tokenizer.decode(result.input_ids[result.target > 0]) == answer


def test_a_mask_from_prefix_renderings_fails_qwen3_thinking(tokenizers):
    """Rendered alone, a first answer keeps the reasoning that the whole conversation drops."""
    tokenizer, template = tokenizers["qwen3"], template_for("qwen3", tokenizers["qwen3"])
    messages = talk("hi", "<think>\nhm\n</think>\n\none", "again", "two")
    whole = render(Conversation(1, tuple(messages)), template).text
    first = render(Conversation(1, tuple(messages[:2])), template).text
    assert not whole.startswith(first)
    _, result = encoded(messages, tokenizer, template, train_on="last")
    assert tokenizer.decode(result.input_ids[result.target > 0]) == "two<|im_end|>"


@pytest.mark.parametrize("name", ["llama3", "mistral", "qwen3"])
def test_tools(name, tokenizers):
    messages = [
        Message("user", "1 + 2?"),
        Message("assistant", "", tool_calls=(CALL,)),
        Message("tool", '{"sum": 3}'),
        Message("assistant", "It is 3."),
    ]
    arguments = json.dumps({"a": 1, "b": "二"}, ensure_ascii=False)
    call = {
        "llama3": f'{{"name": "add", "parameters": {arguments}}}',
        "mistral": f'[TOOL_CALLS][{{"name": "add", "arguments": {arguments}}}]',
        "qwen3": f'<tool_call>\n{{"name": "add", "arguments": {arguments}}}\n</tool_call>',
    }[name]
    check_law(messages, [call + END[name], "It is 3." + END[name]], tokenizers[name], name, tools=[TOOL])
    template = template_for(name, tokenizers[name])
    text = render(Conversation(1, tuple(messages), tools=(TOOL,)), template).text
    assert '"add"' in text.split(call)[0], "the tools come before the call"
    assert '{"sum": 3}' in text


@pytest.mark.parametrize("name", NO_TOOLS)
def test_tools_are_refused_by_message(name, tokenizers):
    _, result = encoded(talk("a", "b"), tokenizers[name], template_for(name, tokenizers[name]), tools=[TOOL])
    assert isinstance(result, Refusal)
    assert result.reason == "template_refused"
    assert "has no tools" in result.detail
    messages = [Message("user", "a"), Message("assistant", "", tool_calls=(CALL,))]
    _, result = encoded(messages, tokenizers[name], template_for(name, tokenizers[name]))
    assert "no tool calls" in result.detail


def test_llama3_refuses_what_its_format_cannot_say(tokenizers):
    template = template_for("llama3", tokenizers["llama3"])
    two = [Message("user", "a"), Message("assistant", "", tool_calls=(CALL, CALL))]
    assert "one tool call" in encoded(two, tokenizers["llama3"], template)[1].detail
    beside = [Message("user", "a"), Message("assistant", "text", tool_calls=(CALL,))]
    assert "no text beside" in encoded(beside, tokenizers["llama3"], template)[1].detail


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_turns_must_alternate(name, tokenizers):
    messages = [Message("user", "a"), Message("user", "b"), Message("assistant", "c")]
    _, result = encoded(messages, tokenizers[name], template_for(name, tokenizers[name]))
    assert "alternate" in result.detail


def test_qwen3_thinking(tokenizers):
    tokenizer, template = tokenizers["qwen3"], template_for("qwen3", tokenizers["qwen3"])
    thought = "<think>\nlet me see\n</think>\n\n"
    messages = talk("hi", thought + "one", "again", thought + "two")
    _, refused = encoded(messages, tokenizer, template)
    assert refused.reason == "left_out", "an answer would be trained without its reasoning"
    assert "the reasoning of message 2" in refused.detail
    assert "train_on: last" in refused.detail
    _, result = encoded(messages, tokenizer, template, train_on="last")
    text = tokenizer.decode(result.input_ids)
    assert text == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n" + thought + "two<|im_end|>\n"
    )
    trained = tokenizer.decode(result.input_ids[result.target > 0])
    assert result.straddles == 0
    assert trained == thought + "two<|im_end|>"


def test_reasoning_beside_the_answer_is_the_same_as_in_it(tokenizers):
    tokenizer, template = tokenizers["qwen3"], template_for("qwen3", tokenizers["qwen3"])
    _, inside = encoded(talk("hi", "<think>\nlet me see\n</think>\n\none"), tokenizer, template)
    beside = [Message("user", "hi"), Message("assistant", "one", reasoning="let me see")]
    _, result = encoded(beside, tokenizer, template)
    assert result.input_ids.tolist() == inside.input_ids.tolist()
    assert result.target.tolist() == inside.target.tolist()
    assert "let me see" in tokenizer.decode(result.input_ids[result.target > 0])


def test_qwen3_without_thinking_has_an_empty_block_that_is_not_trained(tokenizers):
    tokenizer, template = tokenizers["qwen3"], template_for("qwen3", tokenizers["qwen3"])
    _, result = encoded(talk("hi", "one", "again", "two"), tokenizer, template)
    text = tokenizer.decode(result.input_ids)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\ntwo<|im_end|>\n")
    assert text.count("<think>") == 1
    assert tokenizer.decode(result.input_ids[result.target > 0]) == "one<|im_end|>two<|im_end|>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_train_on_and_train_flags(name, tokenizers):
    tokenizer, template = tokenizers[name], template_for(name, tokenizers[name])
    messages = talk("a", "first", "b", "second")
    _, last = encoded(messages, tokenizer, template, train_on="last")
    assert tokenizer.decode(last.input_ids[last.target > 0]) == "second" + END[name]
    muted = [*messages[:3], Message("assistant", "second", train=False)]
    _, first = encoded(muted, tokenizer, template)
    assert tokenizer.decode(first.input_ids[first.target > 0]) == "first" + END[name]
    _, nothing = encoded(muted, tokenizer, template, train_on="last")
    assert nothing == Refusal("no_target_tokens", "no assistant turn is trained")


@pytest.mark.shared
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_real_data_keeps_the_law(name, tokenizers, shared):
    records = json.loads((shared / "alpaca_zh_demo.json").read_text("utf-8"))[:100]
    template, tokenizer = template_for(name, tokenizers[name]), tokenizers[name]
    for record in records:
        messages = talk(record["instruction"] + record["input"], record["output"])
        conversation = Conversation(1, tuple(messages))
        ((result,),) = encode([conversation], tokenizer, template, train_on="all", max_tokens=9999, over_long="drop")
        (expected,) = expected_answers(name, messages)
        if not result.straddles:
            assert tokenizer.decode(result.input_ids[result.target > 0], skip_special_tokens=False) == expected


def test_straddling_tokens_are_exactly_those_over_a_border(tokenizers):
    tokenizer, template = tokenizers["chatml"], template_for("chatml", tokenizers["chatml"])
    conversation = Conversation(1, tuple(talk("hi", "\nhello")))
    rendered = render(conversation, template)
    tokens = tokenize(tokenizer, [rendered.text])
    target, straddles = locate(
        [rendered.text], tokens, [[region[:2] for region in trained_regions(conversation, rendered, "all")]]
    )
    (place,) = np.flatnonzero(straddles)
    assert tokenizer.decode([tokens.ids[place]]) == "\n\n"
    assert not target[place], "its first character belongs to the header"
    assert target[place + 1]


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_a_sentencepiece_like_tokenizer_keeps_the_law(scheme):
    """Word pieces with `▁` for spaces and bytes for unknown characters (Llama 2, Mistral 7B, Gemma)."""
    letters = [*"abcdefghijklmnopqrstuvwxyz▁:<|>_\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("▁", "h"), ("\n", "\n"), ("l", "l"), (":", "\n")]
    vocabulary = {token: index for index, token in enumerate(["<unk>", *letters, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    for answer in ("hello", " hello 你🙂", "you: hello"):
        _, result = encoded(talk("hi", answer), tokenizer, template_for("chatml", tokenizer))
        trained = tokenizer.decode(result.input_ids[result.target > 0], skip_special_tokens=False)
        assert result.straddles == 0
        assert trained == answer + "<|im_end|>"
    _, result = encoded(talk("hi", "\nhello"), tokenizer, template_for("chatml", tokenizer))
    assert (result.straddles, result.cuts) == (0, 1)
    assert tokenizer.decode(result.input_ids[result.target > 0]) == "\nhello<|im_end|>"
