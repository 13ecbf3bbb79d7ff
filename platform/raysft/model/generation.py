"""How an exported model generates: its generation_config, as the base had it where that can be saved.

Owns where generation stops and which flags of a base are kept; writes no file.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

_FIRST = ("do_sample", "num_beams", "return_dict_in_generate")
"""Fields that others are valid with only."""


def set_generation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, *, stops: Sequence[int], is_fresh: bool
) -> None:
    """Cache on; generation ends at `stops`, where trained answers end, at the end of text, and where the base's did.

    A fresh model's config carries its class's default token ids, which mean nothing to this tokenizer.
    """
    model.config.use_cache = True
    previous = model.generation_config
    if is_fresh or previous is None:
        chosen = GenerationConfig()
        known: list[int] = []
        model.config.bos_token_id = tokenizer.bos_token_id
        model.config.eos_token_id = tokenizer.eos_token_id
        model.config.pad_token_id = tokenizer.pad_token_id
    else:
        chosen = saveable(previous)
        stated = previous.eos_token_id
        known = [] if stated is None else [stated] if isinstance(stated, int) else list(stated)
    ends = {*known, *stops, tokenizer.eos_token_id} - {None}
    chosen.use_cache = True
    chosen.bos_token_id = tokenizer.bos_token_id
    chosen.pad_token_id = tokenizer.pad_token_id
    chosen.eos_token_id = sorted(ends) or None
    model.generation_config = chosen


def saveable(given: GenerationConfig) -> GenerationConfig:
    """As much of a generation config as transformers saves; it refuses to save some that it loads.

    Sampling flags (temperature, top_p) without do_sample, as Llama 2 Chat has them, are kept and do_sample is set:
    they mean nothing else. What is valid neither way (beam flags without beams, flags beside `do_sample: false`) is
    left out, with a warning.
    """
    kept, left_out = GenerationConfig(), []
    values = {name: vars(given)[name] for name in given.to_diff_dict() if name in vars(given)}
    for name in sorted(values, key=lambda name: (name not in _FIRST, name)):
        for more in ({}, {"do_sample": True} if given.do_sample is None else {}):
            tried = _with(kept, {name: values[name], **more})
            if _is_valid(tried):
                kept = tried
                break
        else:
            left_out.append(f"{name}={values[name]!r}")
    if left_out:
        logger.warning("generation_config: transformers does not save %s of the base: left out", ", ".join(left_out))
    if kept.do_sample and not given.do_sample:
        logger.warning(
            "generation_config: the base has sampling flags and no do_sample: exported with do_sample: true"
        )
    return kept


def _with(config: GenerationConfig, fields: dict[str, object]) -> GenerationConfig:
    changed = copy.deepcopy(config)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_valid(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except (ValueError, TypeError):
        return False
    return True
