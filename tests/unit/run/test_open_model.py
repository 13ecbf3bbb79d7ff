"""Models by the places where runs leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commits import save
from exports import write_export
from fakes import FakeGroup, make_tokenizer
from models import local
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from raysft.errors import ModelError, UserError
from raysft.evaluate.sampling import Sampling
from raysft.run.open_model import open_base, open_model
from raysft.run.rundir import claim
from raysft.train.commits.checkpoint import begin_attempt

HOW = Sampling(8)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Any]:
    """A run with a checkpoint of an adapter and no export; the model that peft makes of it."""
    base = write_export(tmp_path / "base")
    targets = ["q_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM")
    theirs: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(2)
    state = {"adam_step": torch.tensor(3.0)}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
                state |= {f"{kind}:{name}": parameter.detach().clone() for kind in ("weight", "exp_avg")}
    method = {"kind": "lora", "rank": 4, "alpha": 12.0, "target_modules": targets}
    recipe = local(base, method=method, storage=str(tmp_path / "storage"), name="tuned")
    location = tmp_path / "storage" / "runs" / "tuned"
    claim(str(location), recipe, "0123456789abcdef")
    attempt, _ = begin_attempt(str(location), FakeGroup())
    save(str(location), attempt, 5, state)
    return location, theirs.merge_and_unload()


def greedy(model: Any, prompt: str) -> str:
    tokenizer = make_tokenizer()
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return str(tokenizer.decode(out, skip_special_tokens=True))


def test_a_run_answers_with_its_adapter_and_its_base_without(run: tuple[Path, Any], tmp_path: Path) -> None:
    location, theirs = run
    tuned, base = open_model(str(location)), open_base(str(location))
    assert "step 5" in tuned.name
    (location / "export" / "adapter").mkdir(parents=True)
    (location / "export" / "adapter" / "adapter_config.json").write_text("{}")
    for place in (location / "export", location / "export" / "adapter"):
        assert open_model(str(place)).identity == tuned.identity
    prompt = tuned.chat_prompt([("user", "hello")])
    assert base.chat_prompt([("user", "hello")]) == prompt
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    said = tuned.generator.generate([prompt], HOW)[0], base.generator.generate([prompt], HOW)[0]
    assert said == (greedy(theirs, prompt), greedy(plain, prompt))
    assert said[0] != said[1]
    assert tuned.identity != base.identity


def test_the_export_of_a_finished_run_comes_first(run: tuple[Path, Any]) -> None:
    location, _ = run
    write_export(location / "export" / "merged", seed=9)
    found = [open_model(str(place)) for place in (location, location / "export", location / "export" / "merged")]
    assert len({one.identity for one in found}) == 1
    assert open_base(str(location / "export" / "merged")).identity == open_base(str(location)).identity


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such directory"):
        open_model(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="untrained model"):
        open_base(str(write_export(tmp_path / "export")))
