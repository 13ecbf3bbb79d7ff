"""Several adapters on one frozen model: the rows of all of them in one forward pass, each with its own adapter.

Owns where each trial's tokens lie in a pass and the layers that add each adapter on its own tokens. The adapters
themselves are made by model/methods/, each on a copy of the model's modules that shares all of its weights, so names,
first values and random draws are those of a model that is trained alone.

Shapes: N tokens of all trials, D and O features in and out of a layer, R rank.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

from raysft.errors import ModelError
from raysft.model.fast.attention import TOLD_BORDERS, Borders
from raysft.model.fast.autograd import applied
from raysft.model.fast.loss import hidden_states
from raysft.model.fast.onednn_linear import linear, product
from raysft.model.methods import LowRank


@dataclass(frozen=True)
class TrialRows:
    """A trial's rows in a pass."""

    trial: int
    input_ids: Tensor
    """[B, T] int64."""
    position_ids: Tensor
    """[B, T] int64."""
    borders: Borders
    """Where their segments begin."""
    dropout: torch.Generator | None
    """What the trial's dropout draws from, layer after layer; None: evaluation."""


@dataclass(frozen=True)
class _Span:
    """Where a trial's tokens lie in the flattened rows of a pass."""

    piece: TrialRows
    start: int
    stop: int


class _Layout:
    """Where the tokens of the pass under way lie: set before it, read by every layer in it and in its backward."""

    spans: Sequence[_Span] = ()


class SharedBase:
    """A frozen model and the adapters that are attached to it. Raises ModelError for a model with dropout."""

    def __init__(self, model: PreTrainedModel, *, packing: bool) -> None:
        """model: checked, on its device, in the precision that it computes in. packing: rows hold segments."""
        _refuse_dropout(model)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.model = model
        self._blank = copy_sharing_weights(model)
        self._layout = _Layout()
        self._layers: dict[str, _FusedLinear] = {}
        self._in_one_row = packing and model.config._attn_implementation in TOLD_BORDERS

    def blank(self) -> PreTrainedModel:
        """The model without adapters, for one trial's own: new modules, the same weights."""
        return copy_sharing_weights(self._blank)

    def attach(self, trial: int, adapters: Mapping[str, LowRank]) -> None:
        """Adapters of a trial, by the names of their layers. Raises ModelError."""
        for name, adapter in adapters.items():
            if name not in self._layers:
                self._replace(name)
            self._layers[name].adapters[trial] = adapter

    def detach(self, trial: int) -> None:
        """Forget a trial."""
        for layer in self._layers.values():
            layer.adapters.pop(trial, None)

    def hidden(self, pieces: Sequence[TrialRows]) -> list[Tensor]:
        """What the head reads of each piece, [B, T, D]. The next pass may begin when this one's backward is over."""
        training = pieces[0].dropout is not None
        if self.model.training is not training:
            self.model.train(training)
        if self._in_one_row:
            return self._one_row(pieces)
        return self._padded(pieces)

    def _one_row(self, pieces: Sequence[TrialRows]) -> list[Tensor]:
        """All rows behind each other: segments stay apart by their borders, and no padding is computed."""
        sizes = [piece.input_ids.numel() for piece in pieces]
        stops = list(accumulate(sizes))
        self._layout.spans = [_Span(p, stop - n, stop) for p, n, stop in zip(pieces, sizes, stops, strict=True)]
        ids = torch.cat([piece.input_ids.reshape(1, -1) for piece in pieces], dim=1)
        positions = torch.cat([piece.position_ids.reshape(1, -1) for piece in pieces], dim=1)
        borders = Borders.in_one_row([piece.borders for piece in pieces])
        hidden = hidden_states(self.model, ids, positions, borders)
        parts = torch.split(hidden, sizes, dim=1)
        return [part.view(*piece.input_ids.shape, -1) for part, piece in zip(parts, pieces, strict=True)]

    def _padded(self, pieces: Sequence[TrialRows]) -> list[Tensor]:
        """Rows under each other, as long as the longest; padding is a segment of its own."""
        width = max(piece.input_ids.shape[1] for piece in pieces)
        rows = [len(piece.input_ids) for piece in pieces]
        stops = list(accumulate(rows))
        self._layout.spans = [
            _Span(p, (stop - n) * width, stop * width) for p, n, stop in zip(pieces, rows, stops, strict=True)
        ]
        ids, positions = [], []
        for piece in pieces:
            missing = width - piece.input_ids.shape[1]
            more = torch.arange(missing, device=piece.input_ids.device).expand(len(piece.input_ids), -1)
            ids.append(nn.functional.pad(piece.input_ids, (0, missing)))
            positions.append(torch.cat([piece.position_ids, more], dim=1))
        hidden = hidden_states(self.model, torch.cat(ids), torch.cat(positions))
        parts = torch.split(hidden, rows)
        return [part[:, : piece.input_ids.shape[1]] for part, piece in zip(parts, pieces, strict=True)]

    def _replace(self, name: str) -> None:
        layer = self.model.get_submodule(name)
        if type(layer) is not nn.Linear:
            raise ModelError(
                "trials on one base cannot adapt this layer",
                got=f"{name}, a {type(layer).__name__}",
                expected="linear layers of the decoder",
                fix="set tune.executor: separate, or take it out of method.target_modules",
            )
        parent, _, child = name.rpartition(".")
        self._layers[name] = _FusedLinear(layer, self._layout)
        setattr(self.model.get_submodule(parent), child, self._layers[name])


def copy_sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """New modules with the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _refuse_dropout(model: PreTrainedModel) -> None:
    """A model's own dropout draws for all rows at once: no trial would draw what it draws alone."""
    drawing = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Dropout) and module.p > 0) or vars(module).get("attention_dropout")
    ]
    if drawing:
        raise ModelError(
            "trials cannot share a base model that has dropout of its own",
            got=f"{drawing[0]} and {len(drawing) - 1} more" if len(drawing) > 1 else drawing[0],
            expected="no dropout but the adapters'",
            fix="set tune.executor: separate, or the model's dropout to 0 (model.config)",
        )


class _FusedLinear(nn.Module):
    """A frozen linear layer that adds each trial's adapter on that trial's tokens."""

    def __init__(self, base: nn.Linear, layout: _Layout) -> None:
        super().__init__()
        self.base, self._layout = base, layout
        self.adapters: dict[int, LowRank] = {}
        """{trial: its adapter of this layer}. No parameters of this module: each belongs to its trial."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., O]; all leading dimensions together are the N tokens of the pass."""
        found = [(span, self.adapters.get(span.piece.trial)) for span in self._layout.spans]
        used = [(span, adapter) for span, adapter in found if adapter is not None]
        if not used:
            answer: Tensor = self.base(x)
            return answer
        parts = [_Part(span.start, span.stop, adapter.scaling, _noise(span, adapter, x)) for span, adapter in used]
        weights = [w.to(x.dtype) for _, adapter in used for w in (adapter.a, adapter.b)]
        fused: Tensor = applied(_LinearWithAdapters, x, self.base, parts, *weights)
        return fused


@dataclass(frozen=True)
class _Part:
    """One adapter's tokens, and what scales its output and its input."""

    start: int
    stop: int
    scaling: float
    noise: Tensor | None
    """Dropout of the adapter's input, [stop - start, D]: 0 or 1 / (1 - p)."""


def _noise(span: _Span, adapter: LowRank, x: Tensor) -> Tensor | None:
    """The numbers that torch's own dropout draws on a CPU from a generator in the same state."""
    if not adapter.dropout or span.piece.dropout is None:
        return None
    noise = x.new_empty(span.stop - span.start, x.shape[-1])
    return noise.bernoulli_(1 - adapter.dropout, generator=span.piece.dropout).div_(1 - adapter.dropout)


class _LinearWithAdapters(torch.autograd.Function):
    """y = x W^T + bias, and on the tokens of each part y += scaling * (noise * x) A^T B^T (Hu et al. 2021).

    One pass over the frozen weight for all tokens. The adapters' products are added in place, in both directions.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: nn.Linear, parts: Sequence[_Part], *weights: Tensor) -> Tensor:
        """x [..., D]; weights: A [R, D], B [O, R] of each part."""
        answer = linear(x, base.weight, base.bias)
        flat, out = x.reshape(-1, x.shape[-1]), answer.view(-1, answer.shape[-1])
        low = []
        for part, a, b in zip(parts, weights[::2], weights[1::2], strict=True):
            h, turned = _given(flat, part) @ a.T, b.T.contiguous()  # [n, R], [R, O]
            out[part.start : part.stop].addmm_(h, turned, alpha=part.scaling)
            low += [h, turned]
        ctx.save_for_backward(x, *weights[::2], *low)
        ctx.base, ctx.parts = base, parts
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        """Gradients of x and of the parts' weights. Other layouts of thin products take MKL up to 5 times as long."""
        parts, count = ctx.parts, len(ctx.parts)
        x, *saved = ctx.saved_tensors
        downs, low = saved[:count], saved[count:]
        flat, grad = x.reshape(-1, x.shape[-1]), upstream.reshape(-1, upstream.shape[-1])
        grad_x = product(grad, ctx.base.weight) if ctx.needs_input_grad[0] else None
        grads: list[Tensor] = []
        for part, a, h, turned in zip(parts, downs, low[::2], low[1::2], strict=True):
            g = grad[part.start : part.stop]
            grad_h = (g @ turned.T).mul_(part.scaling)  # [n, R]
            grads += [grad_h.T @ _given(flat, part), (h.T @ g).mul_(part.scaling).T.contiguous()]
            if grad_x is None:
                continue
            if part.noise is None:
                grad_x[part.start : part.stop].addmm_(grad_h, a)
            else:
                grad_x[part.start : part.stop].addcmul_(grad_h @ a, part.noise)
        return grad_x if grad_x is None else grad_x.view_as(x), None, None, *grads


def _given(flat: Tensor, part: _Part) -> Tensor:
    """What the adapter of a part reads."""
    given = flat[part.start : part.stop]
    return given if part.noise is None else given * part.noise
