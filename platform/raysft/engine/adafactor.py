"""Adafactor (Shazeer & Stern 2018, arXiv:1804.04235) on whatever range of a weight a rank holds.

Its second moment of a matrix is a number for each row and each column, and two of its numbers are norms of a whole
weight. All of them are sums over elements: each rank adds up those of its range, the sums are added over the ranks
(a few numbers for each row and column), and each rank moves its range. So ZeRO may give a rank any range, and an
update is torch's (torch.optim.Adafactor, whose formulas these are) under every stage. Rows, columns and vectors'
moments are whole on every rank: they are small, and there is no first moment.

Shapes: a weight is L matrices [R, C] (L is 1, or the experts of a mixture), or a vector [C].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

SMALLEST = torch.finfo(torch.float32).eps
"""What estimates are kept away from zero by: torch's eps1."""
SMALLEST_RMS = 1e-3
"""Root mean square that a weight is taken to have at least, which the size of an update follows: torch's eps2."""


@dataclass(frozen=True)
class Piece:
    """A range of a weight that lies in a flat tensor."""

    name: str
    start: int
    """Its first element in the weight."""
    offset: int
    """Its first element in the flat tensor."""
    count: int


@dataclass(frozen=True)
class Flat:
    """A tensor that the optimizer steps on: of which weights it has a part on any rank, and which parts are here."""

    names: tuple[str, ...]
    pieces: tuple[Piece, ...]


class Adafactor(torch.optim.Optimizer):
    """torch's Adafactor. A gradient becomes the update in its own memory."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        trained: Mapping[str, nn.Parameter],
        *,
        learning_rate: float,
        decay: float,
        clip: float,
    ) -> None:
        """groups, trained: before DeepSpeed partitions them. decay: the moments of step t decay by 1 - t^decay; clip:
        largest root mean square of an update before it is scaled."""
        super().__init__(groups, {"lr": learning_rate, "weight_decay": 0.0})
        self._decay, self._clip = decay, clip
        self._shapes = {name: tuple(parameter.shape) for name, parameter in trained.items()}
        self._flats: Mapping[Tensor, Flat] = {}
        self._is_shared = False
        device = next(iter(trained.values())).device
        self.moments: dict[str, Tensor] = {
            f"{kind}:{name}": torch.zeros(shape, device=device)
            for name, whole in self._shapes.items()
            for kind, shape in _moment_shapes(whole).items()
        }
        """{`<kind>:<name>`: fp32}: `row` [L, R] and `column` [L, C], or `square` [C]."""

    def bind(self, flats: Mapping[Tensor, Flat], *, is_shared: bool) -> None:
        """After DeepSpeed has put its partitions into the groups. is_shared: do the ranks hold parts of a weight?"""
        self._flats, self._is_shared = flats, is_shared

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """An update of the groups' tensors. Collective where weights are shared out."""
        assert closure is None
        for group in self.param_groups:
            for flat in group["params"]:
                if flat.grad is not None:
                    self._move(flat, flat.grad, group["lr"], group["weight_decay"])

    def _move(self, flat: Tensor, gradient: Tensor, rate: float, weight_decay: float) -> None:
        what = self._flats[flat]
        self.state[flat]["step"] += 1
        count = float(self.state[flat]["step"])
        sums = _Sums({name: self._shapes[name] for name in what.names}, flat.device)
        for piece in what.pieces:
            sums.add(piece, flat, gradient)
        self._add_up(sums.all)
        moments = {name: self._followed(name, sums, count) for name in what.names}
        norms = torch.zeros(len(what.names), device=flat.device)
        for piece in what.pieces:
            update = _part(gradient, piece)
            for estimate, part in _estimates(moments[piece.name], self._shapes[piece.name], piece, update):
                part.mul_(estimate.clamp_(min=SMALLEST * SMALLEST).rsqrt_())
            norms[what.names.index(piece.name)] += update.square().sum()
        self._add_up(norms)
        told = zip(what.names, sums.weights.tolist(), norms.tolist(), strict=True)
        squares = {name: (weight, update) for name, weight, update in told}
        for piece in what.pieces:
            size = math.prod(self._shapes[piece.name])
            rms, length = ((square / size) ** 0.5 for square in squares[piece.name])
            own = _part(flat, piece)
            own.mul_(1 - rate * weight_decay)
            own.add_(
                _part(gradient, piece),
                alpha=-max(SMALLEST_RMS, rms) * min(rate, count**-0.5) / max(1.0, length / self._clip),
            )

    def _followed(self, name: str, sums: _Sums, count: float) -> dict[str, Tensor]:
        """The weight's moments after this step's gradient."""
        found = {}
        for kind, mean in sums.means(name).items():
            found[kind] = self.moments[f"{kind}:{name}"]
            found[kind].lerp_(mean, count**self._decay)
        return found

    def _add_up(self, sums: Tensor) -> None:
        if self._is_shared:
            dist.all_reduce(sums)


class _Sums:
    """Sums over elements of some weights, in one tensor: squares of gradients by row and column, and of weights."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        self._shapes, self._places = shapes, dict[str, slice]()
        self._numbers = {name: number for number, name in enumerate(shapes)}
        end = len(shapes)
        for name, shape in shapes.items():
            for kind, size in _moment_shapes(shape).items():
                self._places[f"{kind}:{name}"] = slice(end, end := end + math.prod(size))
        self.all = torch.zeros(end, device=device)

    def add(self, piece: Piece, flat: Tensor, gradient: Tensor) -> None:
        """Add those of a piece."""
        self.weights[self._numbers[piece.name]] += _part(flat, piece).square().sum()
        squares = _part(gradient, piece).square()
        shape = self._shapes[piece.name]
        if len(shape) < 2:
            self._at("square", piece.name)[piece.start : piece.start + piece.count] += squares
            return
        rows, columns = self._at("row", piece.name), self._at("column", piece.name)
        for number, first, part in _matrices(squares, shape, piece.start):
            whole, top = _in_rows(part, first, shape[-1])
            rows[number, top : top + len(whole)] += whole.sum(1)
            columns[number] += whole.sum(0)

    @property
    def weights(self) -> Tensor:
        """[names]: squares of the weights themselves."""
        return self.all[: len(self._numbers)]

    def means(self, name: str) -> dict[str, Tensor]:
        """{kind of a moment: mean squares of this step's gradient}."""
        shape = self._shapes[name]
        if len(shape) < 2:
            return {"square": self._at("square", name)}
        return {"row": self._at("row", name) / shape[-1], "column": self._at("column", name) / shape[-2]}

    def _at(self, kind: str, name: str) -> Tensor:
        return self.all[self._places[f"{kind}:{name}"]].view(_moment_shapes(self._shapes[name])[kind])


def _moment_shapes(shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    if len(shape) < 2:
        return {"square": tuple(shape)}
    count = math.prod(shape[:-2])
    return {"row": (count, shape[-2]), "column": (count, shape[-1])}


def _estimates(
    moments: Mapping[str, Tensor], shape: tuple[int, ...], piece: Piece, own: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """(estimates of the second moment, the elements of `own` that they are of) of a piece."""
    if len(shape) < 2:
        yield moments["square"][piece.start : piece.start + piece.count].clone(), own
        return
    width = shape[-1]
    for number, first, part in _matrices(own, shape, piece.start):
        rows = moments["row"][number]
        top, bottom = first // width, -(-(first + len(part)) // width)
        estimate = torch.outer(rows[top:bottom], moments["column"][number]).div_(rows.mean().clamp(min=SMALLEST))
        yield estimate.view(-1)[first - top * width :][: len(part)], part


def _matrices(values: Tensor, shape: tuple[int, ...], start: int) -> Iterator[tuple[int, int, Tensor]]:
    """(number of a matrix, first element there, elements) of elements `start`, start + 1, ... of a weight."""
    size = shape[-2] * shape[-1]
    end = start + len(values)
    for number in range(start // size, -(-end // size)):
        first, last = max(start, number * size), min(end, (number + 1) * size)
        yield number, first - number * size, values[first - start : last - start]


def _in_rows(values: Tensor, first: int, width: int) -> tuple[Tensor, int]:
    """Elements `first`, first + 1, ... of a matrix as whole rows, filled up by zeros; number of the first row."""
    before = first % width
    after = -(before + len(values)) % width
    return nn.functional.pad(values, (before, after)).view(-1, width), first // width


def _part(flat: Tensor, piece: Piece) -> Tensor:
    """[count], a view."""
    return flat.view(-1)[piece.offset : piece.offset + piece.count]
