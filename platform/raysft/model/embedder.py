"""A model of vectors of texts, as it is used: texts alone, without a training batch. And the files by which
sentence-transformers loads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from raysft.model.decoder import decoder
from raysft.model.encoder import is_encoder
from raysft.recipe.objective_traits import embeds
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.embedding_objectives import ContrastiveObjective, Pooling

_TEXTS = 32
"""Texts that go through the model at a time."""

_POOLING_MODES = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
"""{pooling: its name in 1_Pooling/config.json}."""


def pooling_of(recipe: Recipe, model: PreTrainedModel) -> Pooling:
    """What a text's vector is made of. recipe: of an objective that embeds."""
    assert isinstance(recipe.objective, ContrastiveObjective)
    return recipe.objective.pooled_by(is_encoder=is_encoder(model.config))


@torch.no_grad()
def embed(model: PreTrainedModel, texts: Sequence[NDArray[np.int64]], pooling: Pooling) -> torch.Tensor:
    """[N, D] float32 on the CPU, vectors of length 1. texts: their tokens."""
    model.train(False)
    found = torch.zeros(len(texts), model.config.get_text_config().hidden_size)
    order = np.argsort([len(text) for text in texts], kind="stable")  # texts of one length share a pass
    for some in np.split(order, range(_TEXTS, len(order), _TEXTS)):
        own = [torch.from_numpy(texts[number]) for number in some]
        ids = nn.utils.rnn.pad_sequence(own, batch_first=True).to(model.device)
        lengths = torch.tensor([len(text) for text in own], device=model.device)
        mask = torch.arange(ids.shape[1], device=model.device) < lengths[:, None]
        states = decoder(model)(input_ids=ids, attention_mask=mask.long(), use_cache=False)[0].float()
        first = torch.zeros_like(lengths)
        match pooling:
            case "mean":
                pooled = (states * mask[..., None]).sum(1) / lengths[:, None]
            case "cls":
                pooled = states[torch.arange(len(own)), first]
            case "last":
                pooled = states[torch.arange(len(own)), lengths - 1]
        found[some] = nn.functional.normalize(pooled, dim=-1).cpu()
    return found


def write_modules(recipe: Recipe, model: PreTrainedModel, directory: Path) -> None:
    """What sentence-transformers reads beside a transformers model, if the recipe's is one of vectors: how states are
    pooled, that vectors have length 1, and the tokens of the longest text."""
    if not embeds(recipe):
        return
    kinds = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    chosen = pooling_of(recipe, model)
    width = model.config.get_text_config().hidden_size
    pooling = {
        "word_embedding_dimension": width,
        **{f"pooling_mode_{name}": how == chosen for how, name in _POOLING_MODES.items()},
    }
    _write(directory / "modules.json", modules)
    _write(directory / "1_Pooling" / "config.json", pooling)
    _write(directory / "2_Normalize" / "config.json", {})
    _write(
        directory / "sentence_bert_config.json", {"max_seq_length": recipe.data.max_tokens, "do_lower_case": False}
    )


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
