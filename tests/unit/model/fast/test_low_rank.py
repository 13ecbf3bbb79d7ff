"""Adapted layers in one piece against peft's own, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from raysft.model.fast.low_rank import adapted_linear, use_low_rank


def adapted(**config: object) -> nn.Module:
    """Two linear layers, one with a bias; adapters with weights that are not zero."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 10), nn.SiLU(), nn.Linear(10, 4, bias=False)).double()
    module = get_peft_model(plain, LoraConfig(r=3, lora_alpha=7, target_modules=["0", "2"], **config))
    for parameter in module.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return module.double()


def answers(module: nn.Module) -> list[Tensor]:
    """Output, gradient of the input and of each adapter's matrix."""
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    out = module(x)
    trained = [p for p in module.parameters() if p.requires_grad]
    return [out, *torch.autograd.grad(out.square().sum(), [x, *trained])]


def test_it_computes_what_peft_computes() -> None:
    module = adapted()
    theirs = answers(module)
    assert use_low_rank(m for m in module.modules() if type(m) is Linear) == 2
    for ours, own in zip(answers(module), theirs, strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-12, atol=1e-12)


def test_its_gradients_are_those_of_differences() -> None:
    draw = torch.Generator().manual_seed(2)
    x, w, b, a, c = (
        torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((3, 4), (5, 4), (5,), (2, 4), (5, 2))
    )
    tensors = [t.requires_grad_() for t in (x, a, c)]
    assert torch.autograd.gradcheck(lambda x, a, c: adapted_linear(x, w, b, a, c, 0.7), tensors)


def test_an_adapter_that_is_switched_off_adds_nothing() -> None:
    module = adapted()
    use_low_rank(m for m in module.modules() if type(m) is Linear)
    x = torch.ones(1, 6).double()
    base = copy.deepcopy(module.get_base_model())
    on = base(x)
    with module.disable_adapter():
        off = module(x)
    assert not torch.allclose(on, off)
    merged = copy.deepcopy(module).merge_and_unload()
    torch.testing.assert_close(merged(x), on)


def test_adapters_of_another_precision_are_converted_by_peft() -> None:
    module = adapted()
    for layer in (m for m in module.modules() if type(m) is Linear):
        layer.base_layer.float()
    use_low_rank(m for m in module.modules() if type(m) is Linear)
    assert module(torch.ones(1, 6)).dtype == torch.float32


class Doubled(nn.Linear):
    """Stands for a layer that tensor parallelism puts in: it answers more than its weight says."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_layer_that_was_replaced_answers_for_itself() -> None:
    module = adapted()
    layers = [m for m in module.modules() if type(m) is Linear]
    use_low_rank(layers)
    before = layers[0](torch.ones(1, 6).double())
    own = layers[0].base_layer(torch.ones(1, 6).double())
    layers[0].base_layer.__class__ = Doubled
    torch.testing.assert_close(layers[0](torch.ones(1, 6).double()), before + own)


@pytest.mark.parametrize("config", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True, "bias": "none"}])
def test_others_stay_as_peft_made_them(config: dict[str, object]) -> None:
    module = adapted(**config)
    layers = [m for m in module.modules() if type(m) is Linear]
    assert use_low_rank(layers[:1]) == 0
    assert "forward" not in vars(layers[0])
