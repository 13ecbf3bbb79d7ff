"""AdaLoRA: adapters B diag(E) A that share a budget of ranks (Zhang et al. 2023, arXiv:2303.10512).

Attached by peft. What its trainer would have to do lies here, on gradients of any engine: the gradient of the
orthogonality penalty, importance scores, and zeros for the least important singular values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from raysft.model.methods.acts import Parameters
from raysft.model.methods.adapters import (
    base_model,
    check_ranks,
    no_layer,
    refuse_experts,
    settled,
    task_type,
    untie,
)
from raysft.model.targets import missing_targets, unfit_layers
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.method import AdaloraMethod

_MATRIX = re.compile(r"(?P<layer>.*)\.lora_(?P<part>[ABE])\.\w+")


def attach(model: PreTrainedModel, recipe: Recipe) -> nn.Module:
    """The model with fresh adapters: E is zero, so that it computes what it did. Raises ModelError."""
    from peft import AdaLoraConfig, get_peft_model  # 4 s to import: only where it is used

    method = recipe.method
    assert isinstance(method, AdaloraMethod)
    targets: str | list[str] = list(method.target_modules)
    if targets == ["all-linear"]:
        targets = "all-linear"
        refuse_experts(model, "AdaLoRA")
    unfit = unfit_layers(model, targets)
    if targets != "all-linear" and (missing := missing_targets(model, targets, unfit)):
        raise no_layer(model, method.target_modules, f"no layer is named {', '.join(missing)}")
    alpha: Any = method.alpha  # peft says int, and divides it
    config = AdaLoraConfig(
        init_r=method.rank,
        target_r=method.target_rank,
        lora_alpha=alpha,
        lora_dropout=method.dropout,
        target_modules=targets,
        exclude_modules=unfit or None,
        task_type=task_type(model),
        deltaT=method.every_steps,
        beta1=method.importance_beta,
        beta2=method.uncertainty_beta,
        orth_reg_weight=method.orthogonality_weight,
        total_step=recipe.train.max_steps or 1,  # for peft's own trainer; RankAllocation knows the run's
    )
    generator_state = torch.get_rng_state()
    torch.manual_seed(recipe.seed)
    try:
        with settled():
            adapted: nn.Module = get_peft_model(model, config)
    except ValueError as error:
        raise no_layer(model, method.target_modules, " ".join(str(error).split())[:200]) from error
    finally:
        torch.set_rng_state(generator_state)
    check_ranks(adapted, is_named=targets != "all-linear")
    untie(base_model(adapted))
    return adapted


class RankAllocation:
    """The StepActs of AdaLoRA."""

    def __init__(self, module: nn.Module, method: AdaloraMethod, total_steps: int) -> None:
        """module: as attach gave it. total_steps: of the run; the budget is spent over them."""
        self._method, self._phases = method, Phases.of(method, total_steps)
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._names = [name for name in trained if _MATRIX.fullmatch(name)]
        self._layers = sorted({_parts(name)[0] for name in self._names})
        self._by_part = {_parts(name): name for name in self._names}
        sizes = {name: tuple(trained[name].shape) for name in self._names}
        self._importance = {name: torch.zeros(size) for name, size in sizes.items()}
        self._uncertainty = {name: torch.zeros(size) for name, size in sizes.items()}
        self._kept = {layer: torch.ones(sizes[self._by_part[layer, "E"]]) for layer in self._layers}
        self._gradients: dict[str, Tensor] = {}

    def before_update(self, step: int, parameters: Parameters) -> None:
        """Adds the penalty's gradient, and keeps all of them for the scores."""
        pulled = [name for name in self._names if _parts(name)[1] != "E"]
        for name in self._names:
            gradient = parameters.gradient(name).float()
            if name in pulled and self._method.orthogonality_weight:
                pull = penalty_gradient(parameters.weight(name), rows=_parts(name)[1] == "A")
                gradient = gradient + self._method.orthogonality_weight / len(pulled) * pull
                parameters.set_gradient(name, gradient)
            self._gradients[name] = gradient.detach().clone()

    def after_update(self, step: int, parameters: Parameters) -> None:
        """Scores by the new weights, as the authors' code has it; then what is over the budget becomes zero."""
        if step < self._phases.end:
            for name in self._names:
                self._score(name, parameters.weight(name))
        budget = ranks_left(step, self._method, self._phases, len(self._layers))
        if budget is not None:
            self._kept = most_important(self._triplet_scores(), budget)
        if budget is not None or step > self._phases.end:
            for layer in self._layers:
                name = self._by_part[layer, "E"]
                weight = parameters.weight(name)
                parameters.set_weight(name, weight * self._kept[layer].to(weight.device))
        self._gradients.clear()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """See StepActs."""
        for name in self._names:
            yield f"importance:{name}", self._importance[name]
            yield f"uncertainty:{name}", self._uncertainty[name]
        for layer in self._layers:
            yield f"kept:{self._by_part[layer, 'E']}", self._kept[layer]

    def restore(self, saved: Callable[[str], Tensor]) -> None:
        """See StepActs."""
        for name in self._names:
            self._importance[name] = saved(f"importance:{name}")
            self._uncertainty[name] = saved(f"uncertainty:{name}")
        self._kept = {layer: saved(f"kept:{self._by_part[layer, 'E']}") for layer in self._layers}

    def _score(self, name: str, weight: Tensor) -> None:
        """Smoothed sensitivity and its uncertainty (equations 8 to 10)."""
        beta1, beta2 = self._method.importance_beta, self._method.uncertainty_beta
        found = (weight * self._gradients[name]).abs().cpu()
        self._importance[name] = beta1 * self._importance[name] + (1 - beta1) * found
        unsure = (found - self._importance[name]).abs()
        self._uncertainty[name] = beta2 * self._uncertainty[name] + (1 - beta2) * unsure

    def _triplet_scores(self) -> dict[str, Tensor]:
        """{layer: [R, 1]}: of a singular value, and the means of its two vectors (equation 7)."""
        scores = {name: self._importance[name] * self._uncertainty[name] for name in self._names}
        return {
            layer: scores[self._by_part[layer, "E"]]
            + scores[self._by_part[layer, "A"]].mean(1, keepdim=True)
            + scores[self._by_part[layer, "B"]].mean(0)[:, None]
            for layer in self._layers
        }


def penalty_gradient(matrix: Tensor, *, rows: bool) -> Tensor:
    """Gradient of the norm |P P' - 1|. rows: those of P [R, D] should be orthonormal; else the columns of [O, R]."""
    product = matrix @ matrix.T if rows else matrix.T @ matrix
    excess = product - torch.eye(len(product), device=matrix.device)
    unit: Tensor = 2 * excess / excess.norm().clamp_min(1e-12)
    return unit @ matrix if rows else matrix @ unit


@dataclass(frozen=True)
class Phases:
    """Steps, from 0, between which ranks are taken."""

    start: int
    """The last step that keeps all of them."""
    end: int
    """The step that takes the last one."""

    @staticmethod
    def of(method: AdaloraMethod, total_steps: int) -> Phases:
        """The phases of a run of so many steps; its last step at the latest is the end."""
        last = total_steps - 1
        return Phases(int(method.warmup_share * last), min(last, int((1 - method.final_share) * total_steps)))


def ranks_left(step: int, method: AdaloraMethod, phases: Phases, num_layers: int) -> int | None:
    """Ranks that all layers keep after this step, together (cubic decrease, section 3.3); None: none is taken."""
    is_due = step == phases.end or (phases.start < step < phases.end and step % method.every_steps == 0)
    if not is_due:
        return None
    left = (phases.end - step) / max(1, phases.end - phases.start)
    first, last = method.rank * num_layers, method.target_rank * num_layers
    return last + int((first - last) * left**3)


def most_important(scores: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
    """{layer: [R, 1] of ones and zeros}: `budget` ones over all layers; equal scores at the border all go."""
    everything = torch.cat([score.flatten() for score in scores.values()])
    dropped = len(everything) - budget
    if not dropped:
        return {layer: torch.ones_like(score) for layer, score in scores.items()}
    border = torch.kthvalue(everything, dropped).values
    return {layer: (score > border).float() for layer, score in scores.items()}


def _parts(name: str) -> tuple[str, str]:
    """(layer, `A`, `B` or `E`) of a matrix's name."""
    found = _MATRIX.fullmatch(name)
    assert found is not None
    return found["layer"], found["part"]
