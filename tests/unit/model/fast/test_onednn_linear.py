"""Products by oneDNN against NumPy in float64, whatever this machine would choose; and models with and without it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from families import LLAMA, TIED, make_model
from numpy.typing import NDArray
from torch import Tensor, nn

from raysft.model.fast import onednn_linear
from raysft.model.fast.loss_head import LogitShape, LossHead, Targets
from raysft.model.fast.onednn_linear import add_product, linear, product, use_products

Array = NDArray[np.float64]

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """oneDNN is the faster one; gets the rows of each of its products."""
    calls: list[int] = []
    own = onednn_linear._onednn

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        calls.append(len(x))
        return own(x, weight, bias)

    monkeypatch.setattr(onednn_linear, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(onednn_linear, "_onednn", counted)
    return calls


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x: Tensor) -> Array:
    return np.asarray(x.detach().double().numpy())


def assert_close(found: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(exact(found), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 300, 2), (260, 64, 129)])
@pytest.mark.parametrize("layout", ["plain", "left", "right", "both"])
def test_a_product_in_every_layout(taken: list[int], shape: tuple[int, int, int], layout: str) -> None:
    n, d, o = shape
    a = drawn(d, n).T if layout in ("left", "both") else drawn(n, d)
    b = drawn(o, d, seed=1).T if layout in ("right", "both") else drawn(d, o, seed=1)
    assert_close(product(a, b), exact(a) @ exact(b))
    assert taken == [n]


@pytest.mark.parametrize("first", [True, False])
def test_a_product_is_added_in_blocks(taken: list[int], first: bool) -> None:
    errors, hidden, total = drawn(6, 2500), drawn(6, 4, seed=1), torch.full((2500, 4), 0.5)
    if first:
        total.fill_(torch.nan)  # what empty memory may hold
    add_product(total, errors.T, hidden, first=first)
    assert_close(total, exact(errors).T @ exact(hidden) + (0 if first else 0.5))
    assert taken == [1024, 1024, 452]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "x", "weight", "bias"])
def test_a_layer_and_its_gradients(taken: list[int], bias: bool, frozen: str) -> None:
    x, w = drawn(2, 9, 8).transpose(0, 1), drawn(6, 8, seed=1)
    b, upstream = (drawn(6, seed=2) if bias else None), drawn(9, 2, 6, seed=3)
    given = {"x": x, "weight": w, "bias": b}
    for name, tensor in given.items():
        if tensor is not None:
            tensor.requires_grad_(name != frozen)
    y = linear(x, w, b)
    y.backward(upstream)  # type: ignore[no-untyped-call]
    assert_close(y, exact(x) @ exact(w).T + (0 if b is None else exact(b)))
    g, flat = exact(upstream), exact(upstream).reshape(-1, 6)
    wanted = {"x": g @ exact(w), "weight": flat.T @ exact(x).reshape(-1, 8), "bias": flat.sum(0)}
    for name, tensor in given.items():
        if tensor is None or name == frozen:
            assert tensor is None or tensor.grad is None
        else:
            assert tensor.grad is not None
            assert_close(tensor.grad, wanted[name])
    assert taken


def test_gradients_that_were_expanded_and_rows_without_tokens(taken: list[int]) -> None:
    x, w = drawn(2, 3, 8).requires_grad_(), drawn(5, 8, seed=1).requires_grad_()
    linear(x, w).sum().backward()  # the gradient of a sum is one number, with strides of 0
    assert x.grad is not None
    assert w.grad is not None
    assert_close(x.grad, np.broadcast_to(exact(w).sum(0), (2, 3, 8)))
    assert_close(w.grad, np.broadcast_to(exact(x).sum((0, 1)), (5, 8)))
    empty = torch.empty(1, 0, 8, requires_grad=True)
    assert linear(empty, w).shape == (1, 0, 5)


@pytest.mark.parametrize(
    "kinds", [(torch.bfloat16, torch.bfloat16), (torch.float64, torch.float64)], ids=["half", "double"]
)
def test_other_types_are_left_to_torch(taken: list[int], kinds: tuple[torch.dtype, torch.dtype]) -> None:
    x, w = drawn(4, 8).to(kinds[0]), drawn(6, 8, seed=1).to(kinds[1])
    assert torch.equal(linear(x, w), nn.functional.linear(x, w))
    assert torch.equal(product(x, w.T), x @ w.T)
    assert not taken


def test_where_mkl_is_as_fast_nothing_changes(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_linear, "onednn_is_faster", lambda: False)
    x, w = drawn(4, 8), drawn(6, 8, seed=1)
    assert torch.equal(linear(x, w), nn.functional.linear(x, w))
    assert not use_products(make_model(LLAMA))
    assert not taken


@pytest.mark.parametrize("fields", [LLAMA, TIED], ids=["llama", "tied"])
def test_a_model_and_its_copy_compute_the_same(
    taken: list[int], fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn_linear, "LEAST_WEIGHTS", 1)
    torch.manual_seed(0)
    theirs = make_model(fields)
    ours = copy.deepcopy(theirs)
    assert use_products(ours)
    assert {type(module) for module in ours.modules()} == {type(module) for module in theirs.modules()}
    second = copy.deepcopy(ours)  # what trials on one base are made from
    for parameter in ours.parameters():
        parameter.data.zero_()
    ids = torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (theirs, second):
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert a is not None
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)
    assert taken


def test_the_loss_of_a_head(taken: list[int]) -> None:
    torch.manual_seed(0)
    head, hidden = LossHead(12, 1500, bias=False), drawn(9, 12).requires_grad_()
    targets = Targets(torch.arange(9) * 100, torch.linspace(0.5, 1.5, 9), LogitShape())
    head(hidden, targets).backward()
    w, h = exact(head.weight), exact(hidden)
    logits = h @ w.T
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    probs[np.arange(9), targets.labels.numpy()] -= 1
    errors = probs * exact(targets.weights)[:, None]
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert_close(hidden.grad, errors @ w)
    assert_close(head.weight.grad, errors.T @ h)
    assert len(taken) == 4  # logits, gradient of hidden, two blocks of the weight's


@pytest.mark.parametrize(
    ("text", "vendor"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 2\n", "AuthenticAMD"),
        ("vendor_id\t: GenuineIntel\nvendor_id\t: other\n", "GenuineIntel"),
        ("processor\t: 0\nBogoMIPS\t: 50.00\n", ""),  # an ARM's
        ("", ""),
    ],
)
def test_the_maker_of_a_processor(text: str, vendor: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert onednn_linear._vendor(str(tmp_path / "cpuinfo")) == vendor


@pytest.mark.parametrize(
    ("vendor", "capability", "mkl", "faster"),
    [
        ("AuthenticAMD", "AVX512", True, True),
        ("GenuineIntel", "AVX512", True, False),
        ("AuthenticAMD", "AVX2", True, False),
        ("AuthenticAMD", "AVX512", False, False),
    ],
)
def test_which_is_faster(
    vendor: str, capability: str, mkl: bool, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def says(answer: object) -> Callable[[], object]:
        return lambda: answer

    monkeypatch.setattr(onednn_linear, "_vendor", says(vendor))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", says(capability))
    monkeypatch.setattr(torch.backends.mkl, "is_available", says(mkl))
    assert onednn_linear.onednn_is_faster.__wrapped__() is faster
