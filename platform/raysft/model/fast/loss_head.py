"""The LM head as a loss: chunks of targets, gradients computed in the forward pass.

Owns the head module that does it and its chunk size; not which positions are targets (loss.py), nor how
log-probabilities become other losses (log_probs.py).
Algorithm: Liger-Kernel's fused linear cross entropy (arXiv:2410.10989), in plain torch.

Shapes: N targets, D hidden size, V vocabulary, C targets of a chunk, K tokens of which log-probabilities are asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PretrainedConfig, PreTrainedModel

from raysft.model.fast.autograd import applied
from raysft.model.fast.log_probs import Choices, Likeliest, LogitShape, likeliest, log_probs
from raysft.model.fast.onednn_linear import add_product, product, wide_linear

_SCALES = ("logit_scale", "lm_head_multiplier")
"""Config fields that the head's output is multiplied by (Cohere, Falcon-H1)."""
_DIVISORS = ("logits_scaling", "logits_mup_width_multiplier")
"""Fields that it is divided by (Granite, MiniCPM3; Inkling)."""
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Fields with its soft cap (Gemma, RecurrentGemma, xLSTM)."""


def logit_shape(config: PretrainedConfig) -> LogitShape:
    """Scale and soft cap of a model type, where raysft knows them; check_isolation finds the others."""
    text = config.get_text_config()
    stated = {name: getattr(text, name) for name in (*_SCALES, *_DIVISORS, *_CAPS) if hasattr(text, name)}
    scale = math.prod(float(stated.get(name) or 1.0) for name in _SCALES)
    scale /= math.prod(float(stated.get(name) or 1.0) for name in _DIVISORS)
    return LogitShape(scale, next((float(stated[name]) for name in _CAPS if stated.get(name)), None))


@dataclass(frozen=True)
class Targets:
    """What a LossHead answers with the loss of."""

    labels: Tensor
    """[N] int64."""
    weights: Tensor
    """[N] float."""
    shape: LogitShape
    counts: Sequence[int] | None = None
    """Targets of each of P parts, one behind the other, whose sums are apart; None: all are one."""

    def part(self, start: int, stop: int) -> Targets:
        """Some of them."""
        return Targets(self.labels[start:stop], self.weights[start:stop], self.shape)


class LossHead(nn.Linear):
    """A linear LM head that can also answer with the loss.

    The loss is computed inside this module's own forward because ZeRO-3 gathers a module's weights around
    exactly that; outside it the weight is empty.
    """

    def forward(self, hidden: Tensor, asked: Targets | Choices | Likeliest | None = None) -> Tensor:
        """hidden [..., D] -> raw logits [..., V]; or, with N targets, hidden [N, D] -> sum of weight * -log p, [].

        [P] with targets in parts; then the head must be frozen, for a backward weighs the parts. With choices, or
        asked for the likeliest tokens: hidden [N, D] -> log-probabilities [N, K].
        """
        if asked is None:
            return super().forward(hidden)
        size = chunk_targets(self.weight.shape[0], self.weight)
        if isinstance(asked, Choices):
            return log_probs(hidden, self.weight, self.bias, asked, size)
        if isinstance(asked, Likeliest):
            return likeliest(hidden, self.weight, self.bias, asked, size)
        nll: Tensor = applied(_WeightedNll, hidden, self.weight, self.bias, asked, torch.is_grad_enabled())
        return nll


def install_loss_head(model: PreTrainedModel) -> None:
    """Make the model's LM head a LossHead with the same parameters. A head of another kind stays as it is."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head._forward_hooks or head._forward_pre_hooks:
        return
    fused = LossHead(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
    fused.weight, fused.bias = head.weight, head.bias
    model.set_output_embeddings(fused)
    assert model.get_output_embeddings() is fused


def chunk_targets(vocab_size: int, weight: Tensor) -> int:
    """Targets of a chunk: as many as fit into so many MiB of fp32 logits.

    Each chunk reads and writes the whole gradient of the weight, so that small chunks cost time (decision 008): on a
    GPU 1 GiB with that gradient and 512 MiB without, on a CPU 64 MiB, in half precision 256 MiB.
    """
    if weight.is_cuda:
        return (
            min(max(2**28 // vocab_size, 256), 2048)
            if weight.requires_grad
            else min(max(2**27 // vocab_size, 256), 1024)
        )
    if weight.dtype in (torch.float32, torch.float64):
        return min(max(2**24 // vocab_size, 32), 1024)
    return min(max(2**26 // vocab_size, 256), 1024)


class _WeightedNll(torch.autograd.Function):
    """sum_i weights[i] * -log softmax(shape(hidden W^T + b))[i, labels[i]].

    The sum is linear in the upstream gradient, a scalar: all gradients are made in forward while a chunk's
    probabilities are there, and only scaled in backward. No more than a chunk's logits [C, V] ever exist.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Targets, with_gradients: bool
    ) -> Tensor:
        wanted = [with_gradients and needed for needed in ctx.needs_input_grad[:3]]
        gradients = _Gradients.empty(hidden, weight, bias, wanted)
        exact = torch.promote_types(hidden.dtype, torch.float32)
        nll = torch.empty(hidden.shape[0], dtype=exact, device=hidden.device)
        size = chunk_targets(weight.shape[0], weight)
        for start in range(0, hidden.shape[0], size):
            nll[start : start + size] = gradients.add_chunk(start, weight, bias, targets.part(start, start + size))
        ctx.gradients, ctx.counts = gradients.finished(weight.dtype), targets.counts
        if targets.counts is None:
            return nll.sum()
        assert not any(wanted[1:]), "the gradient of a head is summed before a backward can weigh the parts"
        return torch.stack([part.sum() for part in torch.split(nll, list(targets.counts))])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.gradients
        assert gradients is not None, "the gradients of this loss were used: a second backward needs a second forward"
        if ctx.counts is not None:
            parts = zip(upstream.unbind(), ctx.counts, strict=True)
            upstream = torch.cat([part.expand(count) for part, count in parts]).unsqueeze(-1)  # [N, 1]
        ctx.gradients = None  # autograd keeps a gradient without a copy when nobody else holds it
        return *(g if g is None else g.mul_(upstream).to(dtype) for g, dtype in gradients), None, None


@dataclass
class _Gradients:
    """Gradients of the sum so far, None where none is wanted; in fp32 or more, so that neither the sum over the
    chunks nor a factor (a target's weight, the upstream gradient) is rounded to half precision."""

    hidden: Tensor
    grad_hidden: Tensor | None
    grad_weight: Tensor | None
    grad_bias: Tensor | None

    @classmethod
    def empty(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: list[bool]) -> _Gradients:
        exact = torch.promote_types(weight.dtype, torch.float32)
        hidden = hidden.detach()
        return cls(
            hidden,
            torch.empty_like(hidden, dtype=exact) if wanted[0] else None,
            torch.empty_like(weight, dtype=exact) if wanted[1] else None,
            torch.zeros_like(bias, dtype=exact) if wanted[2] and bias is not None else None,
        )

    def add_chunk(self, start: int, weight: Tensor, bias: Tensor | None, targets: Targets) -> Tensor:
        """The weighted loss of each target from `start` on; the gradients of their sum are added."""
        part, index, shape = slice(start, start + len(targets.labels)), targets.labels.unsqueeze(-1), targets.shape
        hidden = self.hidden[part]
        exact = torch.promote_types(hidden.dtype, torch.float32)
        weights = targets.weights.to(exact)
        logits = shape.apply_(wide_linear(hidden, weight, bias))  # [C, V]
        chosen = logits.gather(-1, index).squeeze(-1)
        largest = logits.amax(-1)
        slope = shape.slope(logits)
        probs = torch.softmax(logits, -1, out=logits)  # row by row: in place is safe
        normaliser = largest - probs.amax(-1).log()  # that of the largest, never < 1 / V
        nll = (normaliser - chosen) * weights
        probs.scatter_add_(-1, index, torch.full_like(index, -1, dtype=exact))
        if slope is not None:
            probs.mul_(slope)
        factor = weights * shape.steepness  # [C]: cheaper on [C, D] than on [C, V]
        errors = probs.to(weight.dtype)
        if self.grad_hidden is not None:
            self.grad_hidden[part] = product(errors, weight) * factor.unsqueeze(-1)
        if self.grad_weight is not None:
            scaled = (hidden * factor.unsqueeze(-1)).to(weight.dtype)
            add_product(self.grad_weight, errors.T, scaled, first=start == 0)
        if self.grad_bias is not None:
            self.grad_bias += probs.T @ factor
        return nll

    def finished(self, dtype: torch.dtype) -> tuple[tuple[Tensor | None, torch.dtype], ...]:
        """(gradient, dtype of what it is a gradient of); without a target zero."""
        if self.grad_weight is not None and not self.hidden.shape[0]:
            self.grad_weight.zero_()
        return (self.grad_hidden, self.hidden.dtype), (self.grad_weight, dtype), (self.grad_bias, dtype)
