"""Log-probabilities of some tokens at some positions, with gradients: a chunk's logits exist, never all of them.

For losses that are not a weighted sum of log-probabilities, so that gradients cannot be made in the forward pass as
loss_head.py does: a chunk's logits are made again in backward.

Shapes: N positions, D hidden size, V vocabulary, K tokens at each position, C positions of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raysft.model.fast.autograd import applied
from raysft.model.fast.onednn_linear import add_product, product, wide_linear


@dataclass(frozen=True)
class LogitShape:
    """What becomes of the head's raw output: y = cap * tanh(scale * x / cap) / temperature; without a cap
    scale * x / temperature."""

    scale: float = 1.0
    """Cohere's logit_scale, 1 / Granite's logits_scaling."""
    cap: float | None = None
    """Gemma 2's final_logit_softcapping (arXiv:2408.00118)."""

    temperature: float = 1.0
    """What an objective divides the model's logits by."""

    @property
    def steepness(self) -> float:
        """dy / dx, but for the cap's slope."""
        return self.scale / self.temperature

    def slope(self, logits: Tensor) -> Tensor | None:
        """The cap's part of dy / dx where y is; None: there is no cap."""
        return None if self.cap is None else 1 - (logits * (self.temperature / self.cap)) ** 2

    def apply_(self, raw: Tensor) -> Tensor:
        """Raw output -> logits, in place."""
        if self.scale != 1.0:
            raw.mul_(self.scale)
        if self.cap is not None:
            raw.div_(self.cap).tanh_().mul_(self.cap)
        if self.temperature != 1.0:
            raw.div_(self.temperature)
        return raw


@dataclass(frozen=True)
class Choices:
    """Tokens whose log-probabilities a LossHead answers with."""

    ids: Tensor
    """[N, K] int64."""
    shape: LogitShape
    with_mean: bool = False
    """Answer with one more number a position: the mean of the log-probabilities of all V tokens."""


@dataclass(frozen=True)
class Likeliest:
    """Asks a LossHead for the log-probabilities of the k likeliest tokens (of all, if they are fewer)."""

    k: int
    shape: LogitShape


def log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | None, choices: Choices, chunk: int) -> Tensor:
    """log softmax(shape(hidden W^T + b)) at the chosen tokens: hidden [N, D] -> [N, K], in fp32 or more; [N, K + 1]
    with the mean over all tokens behind them.

    chunk: positions whose logits exist at a time. Called inside of the head's own forward: under ZeRO-3 its weight is
    there in that, and in the backward of what it answers, whatever number of chunks a rank has.
    """
    found: Tensor = applied(_LogProbs, hidden, weight, bias, choices, chunk)
    return found


@torch.no_grad()
def likeliest(hidden: Tensor, weight: Tensor, bias: Tensor | None, asked: Likeliest, chunk: int) -> Tensor:
    """Log-probabilities of the k likeliest tokens, the likeliest first: hidden [N, D] -> [N, k]. See log_probs."""
    found = []
    for part in torch.split(hidden, chunk):
        logits = asked.shape.apply_(wide_linear(part, weight, bias))  # [C, V]
        found.append(logits.topk(min(asked.k, logits.shape[-1]), -1).values - logits.logsumexp(-1, keepdim=True))
    return torch.cat(found)


class _LogProbs(torch.autograd.Function):
    """d log p_k / d logit_v = [v = k] - p_v; of the mean 1 / V - p_v; times the slope of the logits' shape."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, choices: Choices, chunk: int
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        count, wanted = choices.ids.shape
        found = torch.empty((count, wanted + choices.with_mean), dtype=exact, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            logits = choices.shape.apply_(wide_linear(hidden[part], weight, bias))  # [C, V]
            normaliser = logits.logsumexp(-1, keepdim=True)
            found[part, :wanted] = logits.gather(-1, choices.ids[part]) - normaliser
            if choices.with_mean:
                found[part, wanted:] = logits.mean(-1, keepdim=True) - normaliser
        ctx.save_for_backward(hidden, weight, bias)
        ctx.choices, ctx.chunk = choices, chunk
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        """upstream [N, K], or [N, K + 1]."""
        hidden, weight, bias = ctx.saved_tensors
        ids, shape, wanted = ctx.choices.ids, ctx.choices.shape, ctx.needs_input_grad
        exact = torch.promote_types(weight.dtype, torch.float32)
        grad_hidden = torch.zeros_like(hidden, dtype=exact) if wanted[0] else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if wanted[1] else None
        grad_bias = torch.zeros_like(bias, dtype=exact) if bias is not None and wanted[2] else None
        for start in range(0, len(hidden), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits = shape.apply_(wide_linear(hidden[part], weight, bias))  # [C, V]
            slope = shape.slope(logits)
            given = upstream[part].to(logits.dtype)
            errors = torch.softmax(logits, -1, out=logits).mul_(-given.sum(-1, keepdim=True))
            if ctx.choices.with_mean:
                errors.add_(given[:, -1:] / errors.shape[-1])
                given = given[:, :-1]
            errors.scatter_add_(-1, ids[part], given)
            if slope is not None:
                errors.mul_(slope)
            errors = errors.mul_(shape.steepness).to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = product(errors, weight)
            if grad_weight is not None:
                add_product(grad_weight, errors.T, hidden[part], first=start == 0)
            if grad_bias is not None:
                grad_bias += errors.sum(0, dtype=exact)
        grads = ((grad_hidden, hidden.dtype), (grad_weight, weight.dtype), (grad_bias, weight.dtype))
        return *(None if grad is None else grad.to(dtype) for grad, dtype in grads), None, None
