"""Liger's Triton kernels (RMSNorm, rotary, SwiGLU) where they can be used: CUDA and `pip install raysft[liger]`.

The loss stays ours (loss_head.py). The only importer of liger_kernel. A model that answers otherwise with them than
without is refused.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_liger_kernel_available

from raysft.errors import ModelError

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference of fp32 log-probabilities with and without the kernels."""


def use_liger(model: PreTrainedModel, *, checked: bool = True) -> None:
    """Patch the model's layers in place, and say so. Does nothing on a CPU, without liger_kernel, or for a model type
    that it does not know. Raises ModelError when the model then answers otherwise. checked: False asks it nothing,
    of a model whose weights are not there yet."""
    if model.device.type != "cuda" or not is_liger_kernel_available():
        return
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN  # Triton: needs a GPU

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        logger.info("liger kernels: none for %s", model.config.model_type)
        return
    before = _log_probs(model) if checked else None
    _apply(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    difference = 0.0 if before is None else float((_log_probs(model) - before).abs().max())
    if not difference <= TOLERANCE:
        raise ModelError(
            f"liger's kernels change what the model computes ({model.config.model_type})",
            got=f"log-probabilities that differ by {difference:.2g}",
            expected=f"at most {TOLERANCE:g}",
            fix="pip uninstall liger-kernel, and report the model type and the version",
        )
    logger.info("liger kernels: RMSNorm, rotary positions and MLP of %s", model.config.model_type)


def _apply(model: PreTrainedModel, kernels: dict[str, bool]) -> None:
    from transformers.integrations.liger import apply_liger_kernel  # imports peft: a tenth of a worker's start

    apply_liger_kernel(model, kernels)


@torch.no_grad()
def _log_probs(model: PreTrainedModel) -> Tensor:
    """Log-probabilities [1, 16, V] after a random text."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (1, 16), generator=generator)
    was_training = model.training
    model.eval()
    found: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits.float().log_softmax(-1)
    model.train(was_training)
    return found
