"""A bounded part of docs/guide/models.md: one family of each kind. `make models` tries them all."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_rows import EXPORT_TOLERANCE, TOLERANCE, make_row

FAMILIES = {
    "llama": ("segments", "yes"),
    "gemma2": ("eager", "yes"),  # soft caps: no sdpa
    "gpt_neo": ("eager", "yes"),  # sizes by other names
    "gpt_oss": ("eager", "off"),  # transformers gives packed samples no mask
    "mamba": ("eager", "off"),  # no heads; a state runs over the row
    "phimoe": ("segments", "yes"),  # a linear router that answers a tuple
    "llama4_text": ("sdpa", "yes"),  # base_model_prefix names nothing
    "gemma3": ("segments", "yes"),  # a vision tower beside the text
    "deepseek_v3": ("segments", "yes"),  # latent attention, weights kept in fp32
}
"""Family -> attention and packing."""


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_trains_and_exports_as_plain_transformers_computes(model_type: str, tmp_path: Path) -> None:
    row = make_row(model_type, tmp_path)
    assert (row.full, row.lora) == ("yes", "yes")
    assert row.first_loss <= TOLERANCE
    assert row.export <= EXPORT_TOLERANCE
    assert (row.attention, row.packing.partition(":")[0]) == FAMILIES[model_type]


def test_an_adapter_that_peft_would_not_load_is_refused_and_the_fix_applies(tmp_path: Path) -> None:
    row = make_row("laguna", tmp_path)
    assert row.full == "yes"
    assert row.lora.startswith("peft would not load all of this adapter again")
