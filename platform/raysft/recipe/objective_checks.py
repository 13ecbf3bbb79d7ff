"""Fields of an objective that would do nothing beside the others. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from raysft.errors import RecipeError, refuse_first
from raysft.recipe.columns import bare
from raysft.recipe.evaluation_sets import evaluation_sets
from raysft.recipe.objective_traits import answers_of, embeds, objective_of
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.head_objectives import ClassifyObjective, DomainsSection, RewardObjective
from raysft.recipe.sections.method import ProbeMethod
from raysft.recipe.sections.objective import DistillObjective, MarginObjective, SftObjective, TokenObjective
from raysft.recipe.traits import method_of

_LABEL_COLUMNS = ("label", "labels", "label_text")


def check_objective(recipe: Recipe) -> None:
    """Raises RecipeError."""
    section = recipe.objective
    _check_with_others(recipe)
    if objective_of(recipe).head(section) or embeds(recipe):
        _check_whole_model(recipe)
    for _, field in section:
        if isinstance(field, DomainsSection):
            _check_domains(recipe, field)
    match section:
        case ClassifyObjective():
            _check_labels(section)
        case TokenObjective():
            _check_guard(section)
        case DistillObjective():
            _check_teachers(section, recipe.parallel.pipeline)
        case MarginObjective():
            _check_margin(section)
        case RewardObjective():
            _check_reward(section)


def _check_with_others(recipe: Recipe) -> None:
    """Fields of other sections that an objective cannot go with."""
    weight, kind = recipe.data.mixture.weight_column, recipe.objective.kind
    epsilon, is_probe = recipe.train.adversarial_epsilon, isinstance(recipe.method, ProbeMethod)
    refuse_first(
        RecipeError,
        (
            weight is not None and answers_of(recipe) != "one",
            "a mean over answers, or pairs of them, has no weights of tokens",
            f"data.mixture.weight_column: {weight}, objective.kind: {kind}",
            "no weight_column, or an objective of tokens",
            "remove data.mixture.weight_column; `epochs` or `weight` of a source say how often it comes",
        ),
        (
            embeds(recipe) and epsilon > 0,
            "vectors of a whole step are compared, and adversarial training moves one micro-batch at a time",
            f"objective: {kind}, train.adversarial_epsilon: {epsilon}",
            "train.adversarial_epsilon: 0",
            "remove train.adversarial_epsilon",
        ),
        (
            is_probe and not objective_of(recipe).head(recipe.objective),
            "a probe trains a head of the objective's own, and this one has none",
            f"method.kind: probe, objective: {kind}",
            "an objective with a head: reward, classify",
            "set objective.kind: reward or classify, or method.kind: freeze with names in method.parameters",
        ),
    )


def _check_reward(section: RewardObjective) -> None:
    if section.compare == "list" and section.margin_weight:
        raise RecipeError(
            "the likelihood of an order has no margin",
            got=f"objective.compare: list, margin_weight: {section.margin_weight:g}",
            expected="compare: pairs, of which each has a margin, or no margin_weight",
            fix="set objective.compare: pairs, or remove objective.margin_weight",
        )


def _check_whole_model(recipe: Recipe) -> None:
    """A head of its own gives numbers, and vectors are none either: no answers, and nothing that an adapter alone
    would leave to a model with an LM head."""
    is_vectors = embeds(recipe)
    who = "a model of vectors of texts" if is_vectors else "a model with a head of its own"
    whose = "vectors of texts are" if is_vectors else "a head of its own is"
    kind, method = recipe.objective.kind, method_of(recipe)
    asked = [name for name, plan in evaluation_sets(recipe).items() if plan.prompts]
    refuse_first(
        RecipeError,
        (
            bool(asked),
            f"{who} answers no prompts",
            f"objective: {kind}, and prompts of {', '.join(asked)}",
            "losses and metrics of rows alone",
            "set evaluate.generate_prompts: 0, and take prompts and their metrics out of evaluate.sets",
        ),
        (
            "merged" not in method.exports and (method.library == "peft" or is_vectors),
            f"{whose} exported with a whole model",
            f"objective: {kind}, method.kind: {recipe.method.kind}, which is exported as an adapter alone",
            "a method whose adapters are merged"
            + ("" if is_vectors else ", or bottleneck adapters, in whose files it has a place"),
            "set method.kind: lora",
        ),
        (
            "merged" in method.exports and not recipe.export.merged,
            f"{whose} exported with a whole model",
            f"objective: {kind}, export.merged: false",
            "export.merged: true",
            "remove export.merged",
        ),
    )


def _check_labels(section: ClassifyObjective) -> None:
    labels = section.labels
    useless = {label: weight for label, weight in section.class_weights.items() if label not in labels or weight <= 0}
    refuse_first(
        RecipeError,
        (
            len(labels) < 2 - section.multi_label,
            "there is nothing to tell apart",
            f"objective.labels: {', '.join(labels) or 'none'}",
            "two labels or more; with multi_label one is enough",
            "name all labels of the data in objective.labels",
        ),
        (
            not _are_told_apart(labels) or any("\n" in label for label in labels),
            "labels have one name each",
            f"objective.labels: {', '.join(map(ascii, labels))}",
            "names in one line each that differ in more than blanks or the Unicode form of an accent",
            "mend objective.labels",
        ),
        (
            bool(useless),
            "objective.class_weights cannot be used",
            ", ".join(f"{label!r}: {weight:g}" for label, weight in useless.items()),
            f"numbers above 0 for some of {', '.join(labels)}",
            "mend objective.class_weights",
        ),
    )


def _are_told_apart(names: Sequence[str]) -> bool:
    """Would a reader see a name, and each of them once?"""
    seen = {bare(name) for name in names}
    return len(seen) == len(names) and "" not in seen


def _check_domains(recipe: Recipe, domains: DomainsSection) -> None:
    names, is_probe = domains.names, isinstance(recipe.method, ProbeMethod)
    refuse_first(
        RecipeError,
        (
            len(names) < 2 or not _are_told_apart(names),
            "domains are told apart by their names",
            f"objective.domains.names: {', '.join(map(ascii, names)) or 'none'}",
            "two names or more that differ in more than blanks or the Unicode form of an accent",
            "name all domains of the data in objective.domains.names; with one there is nothing to tell apart",
        ),
        (
            domains.column in _LABEL_COLUMNS,
            "the label is no domain: what it is told by would be kept out of the model",
            f"objective.domains.column: {domains.column}",
            "another column, which says where a text comes from",
            "set objective.domains.column: domain",
        ),
        (
            is_probe and domains.reversal > 0,
            "a probe leaves the model as it is, and no domain can be kept out of it",
            f"method.kind: probe, objective.domains.reversal: {domains.reversal:g}",
            "a method that trains the model under the head, or reversal: 0",
            "set method.kind: lora; or objective.domains.reversal: 0, to see how well the domain can be told",
        ),
    )


def _check_guard(section: TokenObjective) -> None:
    if not section.kl_weight and section.kl_top_k != SftObjective().kl_top_k:
        raise RecipeError(
            "objective.kl_top_k does nothing without a weight",
            got=f"objective.kl_top_k: {section.kl_top_k}, kl_weight: 0",
            expected="objective.kl_weight above 0",
            fix="set objective.kl_weight: 0.1, or remove kl_top_k",
        )


def _check_teachers(section: DistillObjective, pipeline: int) -> None:
    """pipeline: its stages."""
    weights = section.teacher_weights
    if section.live and pipeline > 1:
        raise RecipeError(
            "live teachers read whole rows, and a stage of a pipeline has some layers of them",
            got=f"objective.live: true, parallel.pipeline: {pipeline}",
            expected="data, tensor or sequence parallelism, or teachers that are asked before training",
            fix="remove objective.live, or set parallel.pipeline: 1",
        )
    if not section.teachers:
        raise RecipeError(
            "distillation needs a teacher",
            got="objective.kind: distill without objective.teachers",
            expected="a model directory, a hub id or run://NAME, or a list of them",
            fix="name it in objective.teachers",
        )
    if weights is not None and len(weights) != len(section.teachers):
        raise RecipeError(
            "each teacher has one weight",
            got=f"objective.teachers: {len(section.teachers)}, teacher_weights: {len(weights)}",
            expected=f"{len(section.teachers)} weights, or none",
            fix="name a weight for each teacher, or remove objective.teacher_weights",
        )
    if len(set(section.teachers)) < len(section.teachers) or (weights and len(weights) == 1):
        raise RecipeError(
            "a mean is of several teachers, each named once, with weights where they count differently",
            got=f"objective.teachers: {', '.join(section.teachers)}"
            + (f", teacher_weights: {weights}" if weights else ""),
            expected="each teacher once; no weight where there is one alone",
            fix="name it once, and remove objective.teacher_weights, or raise its weight",
        )
    if section.teacher_draws >= section.teacher_top_k:
        raise RecipeError(
            "drawn tokens are some of those that are kept, beside the likeliest",
            got=f"objective.teacher_draws: {section.teacher_draws}, teacher_top_k: {section.teacher_top_k}",
            expected="teacher_draws below teacher_top_k",
            fix=f"set objective.teacher_draws: {section.teacher_top_k // 4}",
        )
    if section.teacher_draws and section.divergence != "forward":
        raise RecipeError(
            "drawn tokens give the mean over what the teachers say, which is KL(teacher || student) alone",
            got=f"objective.teacher_draws: {section.teacher_draws}, divergence: {section.divergence}",
            expected="divergence: forward, or no drawn tokens",
            fix="remove objective.teacher_draws, or set objective.divergence: forward",
        )


def _check_margin(section: MarginObjective) -> None:
    is_smooth = section.loss in ("sigmoid", "robust")
    if section.label_smoothing and not is_smooth:
        raise RecipeError(
            "objective.label_smoothing does nothing beside this loss",
            got=f"objective.loss: {section.loss}, label_smoothing: {section.label_smoothing}",
            expected="objective.loss: sigmoid or robust",
            fix="remove objective.label_smoothing, or set objective.loss: robust",
        )
    if section.loss == "robust" and not section.label_smoothing:
        raise RecipeError(
            "objective.loss: robust is sigmoid where no label is taken to be wrong",
            got="objective.loss: robust, label_smoothing: 0",
            expected="the share of pairs that are the wrong way round",
            fix="set objective.label_smoothing: 0.1, or objective.loss: sigmoid",
        )
