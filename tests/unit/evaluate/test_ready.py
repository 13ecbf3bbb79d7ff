"""A model that answers: what it is, where it stops, how it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from exports import write_export
from fakes import make_tokenizer

from raysft.errors import ModelError
from raysft.evaluate.ready import ready_export


def test_an_export_answers_in_its_own_template_and_stops_where_it_says(tmp_path: Path) -> None:
    found = ready_export(str(write_export(tmp_path)), batch_size=3)
    tokenizer = make_tokenizer()
    talk = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    chat = [{"role": role, "content": content} for role, content in talk]
    expected = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert found.chat_prompt(talk) == expected
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert {*(found.generator.stops or ())} == ends  # not every special token
    assert found.generator.batch_size == 3


def test_other_weights_are_another_identity(tmp_path: Path) -> None:
    one = ready_export(str(write_export(tmp_path)), batch_size=1).identity
    assert ready_export(str(tmp_path), batch_size=9).identity == one
    write_export(tmp_path, seed=1)
    assert ready_export(str(tmp_path), batch_size=1).identity != one


def test_a_model_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    write_export(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template") as caught:
        ready_export(str(tmp_path), batch_size=1).chat_prompt([("user", "a")])
    assert "--raw" in str(caught.value)
