"""What a run does besides training: the checkpoint that counts, the tokenizer that is exported, prompts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from commits import save
from fakes import CHATML, FakeGroup, make_recipe, make_tokenizer
from family_rows import FACTS, make_base
from models import local
from peft import LoraConfig, get_peft_model
from run_dirs import LAST, make_run, state_tensors
from transformers import AutoModelForCausalLM

from raysft.errors import CheckpointError, UserError
from raysft.run.remote_tasks import evaluate_initial, evaluate_trained, export, export_tokenizer, newest_checkpoint
from raysft.train.commits.checkpoint import begin_attempt


def test_the_newest_commit_of_the_lineage_with_its_weights(tmp_path: Path) -> None:
    checkpoint = newest_checkpoint(str(make_run(tmp_path, "one", 1)))
    assert checkpoint.state.step == LAST
    ((name, weight),) = checkpoint.weights().items()
    assert name == "a.weight"
    assert weight.equal(state_tensors(1, LAST)["weight:a.weight"])


def test_a_run_that_has_not_trained_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint") as caught:
        newest_checkpoint(str(tmp_path / "nowhere"))
    assert caught.value.got == "no such directory"
    (tmp_path / "begun").mkdir()
    with pytest.raises(UserError) as caught:
        newest_checkpoint(str(tmp_path / "begun"))
    assert caught.value.got == "a directory without a commit"


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("damage", ["a flipped bit", "a record that is no JSON", "a file that is gone"])
def test_a_damaged_one_is_no_model_and_the_way_back_is_told(tmp_path: Path, damage: str, finished: bool) -> None:
    run = make_run(tmp_path, "one", 1)
    if not finished:
        (run / "result.json").unlink()
    (save,) = (run / "checkpoints").glob(f"*/step-{LAST:08d}")
    tensors = sorted(save.glob("*.safetensors"))[0]
    if damage == "a flipped bit":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(bytes(data))
    elif damage == "a file that is gone":
        tensors.unlink()
    else:
        (save / "commit.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        newest_checkpoint(str(run))
    assert ("result.json" in caught.value.fix) is finished, "a finished run would not train again"
    assert "raysft train" in caught.value.fix


@pytest.mark.parametrize("named", [None, {"tool_use": "with tools", "default": "old"}])
def test_the_template_that_was_trained_is_exported_beside_named_ones(tmp_path: Path, named: Any) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = named
    tokenizer.save_pretrained(tmp_path / "tok")
    own = tmp_path / "own.jinja"
    own.write_text(CHATML)
    recipe = make_recipe(model={"tokenizer": str(tmp_path / "tok")}, data={"template": str(own)})
    found = export_tokenizer(recipe).chat_template
    assert found == (CHATML if named is None else {"tool_use": "with tools", "default": CHATML})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_export_of_what_two_ranks_have_saved_is_what_is_evaluated(tmp_path: Path, precision: str) -> None:
    """A stored base, an adapter in slices of two ranks; merged by plain peft for comparison."""
    base, dtype = tmp_path / "base", {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    make_base("llama", base)
    make_tokenizer().save_pretrained(base)
    targets = ["q_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM")
    theirs: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(2)
    state = {"adam_step": torch.tensor(3.0)}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
                state |= {f"{kind}:{name}": parameter.detach().clone() for kind in ("weight", "exp_avg")}
    run = str(tmp_path / "run")
    attempt, _ = begin_attempt(run, FakeGroup())
    save(run, attempt, 5, state)
    method = {"kind": "lora", "rank": 4, "alpha": 12.0, "target_modules": targets}
    recipe = local(base, method=method, train={"precision": precision})
    fields = recipe.model_dump(mode="json")
    merged = export(fields, run, asdict(FACTS))[-1]
    found = AutoModelForCausalLM.from_pretrained(merged)
    expected = theirs.merge_and_unload().to(dtype).state_dict()
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected[name]), name
    assert evaluate_initial(fields, {}, (0, 1)) == evaluate_trained(fields, {}, (0, 1), run) == {}
