"""Where generation stops after training: the built-in templates, by what their makers say."""

from __future__ import annotations

import pytest

from fakes import make_recipe, make_tokenizer
from raysft.data.stops import stop_token_ids

TURN_ENDS = {
    "chatml": "<|im_end|>",
    "qwen3": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "mistral": "</s>",
    "gemma": "<end_of_turn>",
    "zephyr": "</s>",
}


@pytest.mark.parametrize("name", TURN_ENDS)
def test_the_built_in_templates_end_a_turn_as_their_makers_say(name: str) -> None:
    tokenizer = make_tokenizer()
    others = [
        "<s>",
        "<|begin_of_text|>",
        "<bos>",
        "[INST]",
        "[/INST]",
        "<start_of_turn>",
        "<|user|>",
        "<|assistant|>",
    ]
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [*others, "<|start_header_id|>", "<|end_header_id|>", *set(TURN_ENDS.values())]}
    )
    own = set(stop_token_ids(make_recipe(data={"template": name}), tokenizer)) - {tokenizer.eos_token_id}
    assert tokenizer.convert_ids_to_tokens(sorted(own)) == [TURN_ENDS[name]]
