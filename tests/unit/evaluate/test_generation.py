"""Greedy answers: batches answer as single prompts do, answers end where they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import LLAMA, make_tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from raysft.errors import ModelError
from raysft.evaluate.generation import TransformersGenerator, stop_ids
from raysft.evaluate.sampling import Sampling

PROMPTS = ["a", "a longer prompt", "xyz", "", "prompt number five", "p"]


def make_model(seed: int = 0, **fields: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    values = {k: v for k, v in LLAMA.items() if k != "model_type"}
    config = LlamaConfig(**{**values, "vocab_size": 260, "initializer_range": 0.4, **fields})
    return LlamaForCausalLM(config).eval()


def greedy(model: PreTrainedModel, ids: list[int], steps: int, stops: set[int]) -> list[int]:
    """One token at a time, the whole text anew for each: no cache, no padding, no generate()."""
    new: list[int] = []
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax())
        if token in stops:
            break
        new.append(token)
    return new


def test_batched_answers_are_those_of_each_prompt_alone() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    prompts = [prompt for prompt in PROMPTS if prompt]
    expected = []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        expected.append(tokenizer.decode(greedy(model, ids, 12, set(stop_ids(tokenizer)))))
    assert len(set(expected)) > 2
    for batch_size in (1, 2, 5):
        assert answers(model, tokenizer, prompts, 12, batch_size) == expected


def answers(model: PreTrainedModel, tokenizer: Any, prompts: list[str], most: int, batch_size: int) -> list[str]:
    return TransformersGenerator(model, tokenizer, batch_size=batch_size).generate(prompts, Sampling(most))


def force(model: LlamaForCausalLM, tokens: list[int], prompt_tokens: int) -> None:
    """Make the model say exactly these tokens after a prompt of this length."""
    own = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        position = output.past_key_values.get_seq_length() - prompt_tokens
        output.logits[:] = -10.0
        output.logits[:, -1, tokens[min(position, len(tokens) - 1)]] = 10.0
        return output

    model.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize("stop", ["<|im_end|>", "<|endoftext|>", "<|im_start|>", "<|pad|>"])
def test_an_answer_ends_at_every_special_token_and_holds_none(stop: str) -> None:
    model, tokenizer = make_model(), make_tokenizer()
    text = tokenizer("yes")["input_ids"]
    force(model, [*text, tokenizer.convert_tokens_to_ids(stop), *text], prompt_tokens=3)
    assert answers(model, tokenizer, ["abc"], 9, 1) == ["yes"]


def test_an_answer_is_at_most_max_new_tokens_long() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    force(model, tokenizer("n")["input_ids"], prompt_tokens=3)
    assert answers(model, tokenizer, ["abc"], 4, 1) == ["nnnn"]


def test_the_models_own_sampling_and_penalties_are_off_and_come_back() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    plain = answers(model, tokenizer, PROMPTS[:3], 12, 3)
    own = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=3.0, max_length=5)
    model.generation_config = own
    model.train()
    assert answers(model, tokenizer, PROMPTS[:3], 12, 3) == plain
    assert model.generation_config is own
    assert model.training


def test_special_tokens_in_the_prompt_are_special_and_none_is_added() -> None:
    tokenizer, seen = make_tokenizer(), []

    def spy(**kwargs: Any) -> torch.Tensor:
        seen.append(kwargs["input_ids"].tolist())
        return torch.cat([kwargs["input_ids"], torch.full((1, 1), tokenizer.eos_token_id)], dim=1)

    model = make_model()
    model.generate = spy  # type: ignore[method-assign]
    answers(model, tokenizer, ["<|im_start|>a"], 4, 1)
    a = tokenizer("a")["input_ids"][0]
    assert seen == [[[tokenizer.convert_tokens_to_ids("<|im_start|>"), a]]]


def test_no_prompts_give_no_answers() -> None:
    assert answers(make_model(), make_tokenizer(), [], 4, 2) == []


def test_a_prompt_longer_than_the_model_is_an_error_and_a_nearly_full_one_is_answered_shortly() -> None:
    model, tokenizer = make_model(max_position_embeddings=16), make_tokenizer()
    force(model, tokenizer("n")["input_ids"], prompt_tokens=14)
    assert answers(model, tokenizer, ["a" * 14], 9, 1) == ["nn"]
    with pytest.raises(ModelError, match="too long") as caught:
        answers(model, tokenizer, ["a" * 16], 9, 1)
    assert "16 tokens" in str(caught.value)


def test_stop_ids_hold_special_added_tokens_only() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<think>"])
    texts = tokenizer.convert_ids_to_tokens(stop_ids(tokenizer))
    assert sorted(texts) == ["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|pad|>"]


def test_a_generator_answers_with_the_model_that_it_is_given(tmp_path: Path) -> None:
    first, second, tokenizer = make_model(0), make_model(7), make_tokenizer()
    second.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generator, how = TransformersGenerator(first, tokenizer), Sampling(8)
    before = generator.generate(PROMPTS[:3], how)
    generator.load(str(tmp_path))
    assert generator.generate(PROMPTS[:3], how) == answers(second, tokenizer, PROMPTS[:3], 8, 3) != before
    with pytest.raises(ModelError, match="no such directory"):
        generator.load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_what_is_sampled_depends_on_seed_and_number_alone(temperature: float) -> None:
    model, tokenizer = make_model(), make_tokenizer()
    prompts = [prompt for prompt in PROMPTS if prompt]
    how = Sampling(12, temperature, top_p=0.95, seed=3)
    whole = TransformersGenerator(model, tokenizer, batch_size=5).generate(prompts, how)
    for batch_size in (1, 2):
        generator = TransformersGenerator(model, tokenizer, batch_size=batch_size)
        assert generator.generate(prompts, how) == whole
        assert generator.generate(prompts[3:], how, first=3) == whole[3:]
    other = TransformersGenerator(model, tokenizer).generate(prompts, replace(how, seed=4))
    assert (other == whole) is (temperature == 0)


def test_a_stream_is_the_answer_in_pieces_of_whole_characters() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    text = "añ好\U0001f600z"
    force(model, [*tokenizer(text)["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")], prompt_tokens=3)
    pieces: list[str] = []
    generator = TransformersGenerator(model, tokenizer)
    assert generator.stream("abc", Sampling(30), pieces.append) == text
    assert pieces == list(text)
    pieces.clear()
    assert generator.stream("abc", Sampling(5), pieces.append) == "añ\ufffd"  # cut in the middle of a character
    assert "".join(pieces) == "añ\ufffd"


def test_a_stream_can_be_broken_off_and_leaves_the_model_as_it_was() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    model.train()
    own = model.generation_config
    force(model, tokenizer("n")["input_ids"], prompt_tokens=3)

    def enough(piece: str) -> None:
        raise KeyboardInterrupt

    generator = TransformersGenerator(model, tokenizer)
    with pytest.raises(KeyboardInterrupt):
        generator.stream("abc", Sampling(9), enough)
    assert model.generation_config is own
    assert model.training
    assert generator.generate(["abc"], Sampling(3)) == ["nnn"]
