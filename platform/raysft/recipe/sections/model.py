"""`model:`: which model is tuned."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from raysft.recipe.cleaning import Section


class ModelSection(Section):
    """Which model is tuned."""

    source: str = Field(
        min_length=1,
        description="A local directory, a hub id, `run://NAME` (the export of another run) or `random` "
        "(fresh weights from `config`).",
    )
    config: dict[str, Any] | None = Field(
        None, description="Only for `source: random`: a transformers config, `model_type` included."
    )
    tokenizer: str | None = Field(
        None, min_length=1, description="Directory or hub id of the tokenizer. Default: the model source."
    )
    revision: str | None = Field(None, description="Hub revision (commit or tag) to pin.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model: whoever wrote it then acts as you."
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto",
        description="Attention backend. `auto`: sdpa, or eager for model types without it. `sdpa`: segment by "
        "segment without a mask, where the model's code allows it. Whether packed samples stay apart is checked.",
    )
