"""Small encoders on disk, their weights the same with every version of torch; and a tokenizer for both languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from answer_pairs import CHINESE
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

SIZES = {"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0}
TYPES: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": {**SIZES, "pad_token_id": 1},
    "distilbert": {
        **{"vocab_size": 90, "dim": 16, "n_layers": 3, "n_heads": 2},
        **{"hidden_dim": 24, "max_position_embeddings": 40, "pad_token_id": 0},
    },
    "deberta-v2": SIZES,
    "modernbert": {**SIZES, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}
"""{model type: fields of a small config}."""


def write_encoder(folder: Path, model_type: str = "bert", *, longest: int = 38, **fields: object) -> Path:
    """A directory with config, weights and tokenizer. longest: of the tokenizer, in tokens."""
    config = AutoConfig.for_model(model_type, **(TYPES[model_type] | fields))
    model = AutoModel.from_config(config)
    dice = np.random.RandomState(7)
    weights = {
        name: torch.ones(tensor.shape)
        if "norm" in name.lower() and name.endswith("weight")
        else torch.from_numpy(dice.normal(0, 0.4, tuple(tensor.shape)).astype(np.float32))
        for name, tensor in sorted(model.state_dict().items())
        if tensor.is_floating_point()
    }
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    _tokenizer(longest).save_pretrained(folder)
    return folder


def _tokenizer(longest: int) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, *(f"##{letter}" for letter in "aeinorst"), "the", "river", "##ing", "model", ",", "。"]
    words = list(dict.fromkeys([*special, *pieces, *(one for one in CHINESE if ord(one) > 0x2FFF)]))[:90]
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=longest, **named)
