"""Every rule over several fields of one recipe, pure. What also needs the model or the cluster is in resolve.py."""

from __future__ import annotations

from raysft.errors import RecipeError
from raysft.recipe.cleaning import WHOLE_DATA
from raysft.recipe.evaluation_sets import check_sets, evaluation_sets, has_held_out
from raysft.recipe.forgetting import check_forgetting
from raysft.recipe.model_checks import check_method, check_model, check_schedule
from raysft.recipe.objective_checks import check_objective
from raysft.recipe.objective_traits import objective_of, reference_columns
from raysft.recipe.optimizer_checks import check_optimizer
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.parallel import ParallelSection
from raysft.recipe.traits import virtual_tokens

AUTOMATIC = ("zero", "tensor", "pipeline", "sequence")
"""Fields that parallel.auto chooses."""


def check_recipe(recipe: Recipe) -> None:
    """Raises RecipeError."""
    _check_workers(recipe)
    for check in (
        _check_auto,
        _check_offload,
        _check_communication,
        check_model,
        check_method,
        check_optimizer,
        _check_data,
        _check_rules,
        _check_mixture,
        check_objective,
        _check_noise,
        _check_stream,
        _check_answers,
        _check_steps,
        check_sets,
        check_forgetting,
    ):
        check(recipe)


def check_warmup(recipe: Recipe, total_steps: int) -> None:
    """Is there a step after the warm-up? Raises RecipeError."""
    if recipe.optimizer.warmup_steps >= total_steps:
        raise RecipeError(
            "the warm-up is as long as the run",
            got=f"optimizer.warmup_steps = {recipe.optimizer.warmup_steps}, the run has {total_steps} steps",
            expected="fewer warm-up steps than steps",
            fix=f"set optimizer.warmup_steps below {total_steps}, or train longer",
        )


def _check_steps(recipe: Recipe) -> None:
    """What the number of steps decides, where the recipe says it."""
    if recipe.train.max_steps is not None:
        check_warmup(recipe, recipe.train.max_steps)
        check_schedule(recipe, recipe.train.max_steps)


def _check_auto(recipe: Recipe) -> None:
    """What is chosen cannot be given."""
    parallel, default = recipe.parallel.model_dump(), ParallelSection().model_dump()
    given = [f"{name}: {parallel[name]}" for name in AUTOMATIC if parallel[name] != default[name]]
    if recipe.parallel.auto and given:
        raise RecipeError(
            "the layout is given and left open at once",
            got=f"parallel.auto: true and {', '.join(given)}",
            expected="one of them",
            fix="remove parallel.auto, or the fields that it chooses",
        )


def _check_offload(recipe: Recipe) -> None:
    """Only the ZeRO engine moves what ZeRO partitions."""
    parallel = recipe.parallel
    if parallel.offload != "none" and (parallel.zero == 0 or parallel.pipeline > 1):
        raise RecipeError(
            "only ZeRO 1, 2 and 3 without a pipeline keep states in host memory",
            got=f"parallel.offload: {parallel.offload}, zero: {parallel.zero}, pipeline: {parallel.pipeline}",
            expected="parallel.zero: 1, 2 or 3, and parallel.pipeline: 1",
            fix="set parallel.zero: 2, or remove parallel.offload",
        )


def _check_communication(recipe: Recipe) -> None:
    """What DeepSpeed would ignore, or nobody has compared with the plain way."""
    parallel, workers = recipe.parallel, recipe.cluster.workers
    if parallel.pipeline > 1 and (parallel.overlap or recipe.train.reduce_precision is not None):
        raise RecipeError(
            "a pipeline reduces its gradients after all passes, in their own precision",
            got=f"pipeline: {parallel.pipeline}, overlap: {parallel.overlap}, "
            f"train.reduce_precision: {recipe.train.reduce_precision}",
            expected="neither of them, or parallel.pipeline: 1",
            fix="remove parallel.overlap and train.reduce_precision",
        )
    shards = parallel.secondary_shards
    if shards > 1 and (parallel.zero != 3 or workers % shards):
        raise RecipeError(
            "a second copy of the weights needs ZeRO 3 and equal groups of workers",
            got=f"parallel.secondary_shards: {shards}, zero: {parallel.zero}, {workers} workers",
            expected="parallel.zero: 3, and a divisor of cluster.workers",
            fix="remove parallel.secondary_shards",
        )


def _check_workers(recipe: Recipe) -> None:
    """The least and the most."""
    wanted = recipe.cluster
    if wanted.min_workers is not None and wanted.min_workers > wanted.workers:
        raise RecipeError(
            "the fewest workers are more than the most",
            got=f"cluster.min_workers = {wanted.min_workers}, cluster.workers = {wanted.workers}",
            expected="min_workers of at most workers",
            fix=f"set cluster.workers: {{min: {wanted.workers}, max: {wanted.min_workers}}}",
        )


def _check_data(recipe: Recipe) -> None:
    data = recipe.data
    if data.eval and data.eval_fraction:
        raise RecipeError(
            "held-out data is given twice",
            got=f"data.eval and data.eval_fraction = {data.eval_fraction}",
            expected="one of them",
            fix="remove data.eval_fraction to use the files",
        )
    mapped = {
        column for columns in (data.columns, *(s.columns or {} for s in data.sources)) for column in columns.values()
    }
    if both := sorted(mapped & set(data.ignore_columns)):
        raise RecipeError(
            "a column is mapped and left out at once",
            got=f"{', '.join(both)} in data.columns and in data.ignore_columns",
            expected="one of them",
            fix="remove it from data.ignore_columns to read it",
        )
    wants_all, wants_own = recipe.evaluate.every_steps is not None, recipe.evaluate.generate_prompts > 0
    if (wants_own and not has_held_out(recipe)) or (wants_all and not evaluation_sets(recipe)):
        raise RecipeError(
            "evaluation is asked for, but there is no held-out data",
            got="evaluate.every_steps or evaluate.generate_prompts set",
            expected="data.eval or data.eval_fraction",
            fix="set data.eval_fraction: 0.02, or name files in data.eval",
        )


def _check_rules(recipe: Recipe) -> None:
    """A sample has one key of each kind, so a rule that compares them can stand once."""
    names = [rule.rule for rule in recipe.data.rules if isinstance(rule, WHOLE_DATA)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(
            "a rule that compares records stands twice in data.rules",
            got=", ".join(repeated),
            expected="each of them once",
            fix="keep one; `contamination` takes several files",
        )


def _check_mixture(recipe: Recipe) -> None:
    """Shares by weight, by temperature and by epochs exclude each other; an order needs a plan that keeps it."""
    sources, mixture = recipe.data.sources, recipe.data.mixture
    weighted = [source for source in sources if source.weight is not None]
    if 0 < len(weighted) < len(sources):
        raise RecipeError(
            "only some sources have a weight",
            got=f"{len(weighted)} of the {len(sources)} entries of data.train with a weight",
            expected="a weight for each source, or for none",
            fix="give every entry of data.train a weight",
        )
    given = {
        "a weight of its sources": bool(weighted),
        "data.mixture.temperature": mixture.temperature is not None,
        "epochs of its sources": any(source.epochs != 1 for source in sources),
    }
    if sum(given.values()) > 1:
        raise RecipeError(
            "the size of each source is given in more than one way",
            got=" and ".join(name for name, is_given in given.items() if is_given),
            expected="weights, a temperature or epochs",
            fix="keep one of them",
        )
    if mixture.descending and mixture.curriculum is None:
        raise RecipeError(
            "descending is the direction of a curriculum, and there is none",
            got="data.mixture.descending = true",
            expected="data.mixture.curriculum: length or a metadata column",
            fix="set data.mixture.curriculum, or remove descending",
        )
    if mixture.curriculum is not None and recipe.data.order != "windowed":
        raise RecipeError(
            "a shuffle of all rows would undo the curriculum",
            got=f"data.mixture.curriculum = {mixture.curriculum!r}, data.order = {recipe.data.order}",
            expected="data.order: windowed",
            fix="set data.order: windowed",
        )


def _check_noise(recipe: Recipe) -> None:
    train = recipe.train
    if train.adversarial_epsilon and (train.embedding_noise or virtual_tokens(recipe)):
        raise RecipeError(
            "adversarial training moves the embeddings of samples alone",
            got=f"train.adversarial_epsilon: {train.adversarial_epsilon:g}, train.embedding_noise: "
            f"{train.embedding_noise:g}, method.kind: {recipe.method.kind}",
            expected="no noise on them, and a method without virtual tokens",
            fix="set train.adversarial_epsilon: 0, or train.embedding_noise: 0",
        )
    if recipe.train.embedding_noise and virtual_tokens(recipe):
        raise RecipeError(
            "noise on embeddings does not go with virtual tokens, which are no sample's",
            got=f"train.embedding_noise: {recipe.train.embedding_noise:g}, method.kind: {recipe.method.kind}",
            expected="a method without virtual tokens, or no noise",
            fix="set train.embedding_noise: 0",
        )


def _check_stream(recipe: Recipe) -> None:
    """A stream knows neither its length nor the records to come."""
    if recipe.data.mode != "stream":
        return
    if unknown := _need_whole_data(recipe.data):
        raise RecipeError(
            "a stream cannot do what needs the whole data",
            got=", ".join(unknown),
            expected="rules that look at one record at a time, each source once and in order",
            fix="remove them, or set data.mode: prepared",
        )
    for wrong, got, expected in (
        (recipe.train.max_steps is None, "train.max_steps is not set", "train.max_steps"),
        (recipe.data.order != "windowed", f"data.order = {recipe.data.order}", "data.order: windowed"),
        (
            recipe.data.eval_fraction > 0,
            f"data.eval_fraction = {recipe.data.eval_fraction}",
            "held-out files in data.eval",
        ),
    ):
        if wrong:
            raise RecipeError(
                "data.mode: stream cannot go with these fields",
                got=got,
                expected=expected,
                fix=f"give {expected}, or set data.mode: prepared",
            )


def _check_answers(recipe: Recipe) -> None:
    """What pairs of answers, and columns of the untrained model, cannot go with."""
    data, kind = recipe.data, recipe.objective.kind
    answers = objective_of(recipe).answers
    compared, labelled, matched = answers in ("pair", "judged"), answers == "labelled", answers == "matched"
    for wrong, what, got, expected, fix in (
        (
            compared and data.over_long != "drop",
            "cut answers cannot be compared, or judged: their prompts would be others",
            f"objective: {kind}, data.over_long = {data.over_long}",
            "data.over_long: drop",
            "set data.over_long: drop, and data.max_tokens so that a pair of answers with their prompts fits",
        ),
        (
            (labelled or matched) and data.over_long == "split",
            "a text with a label, or one that others match, is one sample",
            f"objective: {kind}, data.over_long = split",
            "data.over_long: drop, or truncate, which keeps the beginning",
            "set data.over_long: truncate",
        ),
        (
            data.mode == "stream" and answers != "one",
            "answers that are compared, or judged, and texts with labels are not streamed, nor texts that match",
            f"data.mode: stream, objective: {kind}",
            "data.mode: prepared",
            "set data.mode: prepared",
        ),
        (
            data.mode == "stream" and bool(reference_columns(recipe)),
            "what the untrained model says of the data is written before training, beside a finished store",
            f"data.mode: stream, objective: {kind} with {', '.join(c.name for c in reference_columns(recipe))}",
            "data.mode: prepared",
            "set data.mode: prepared",
        ),
    ):
        if wrong:
            raise RecipeError(what, got=got, expected=expected, fix=fix)


def _need_whole_data(data: DataSection) -> list[str]:
    """What the recipe asks for, by name, that only the whole data can answer."""
    mixture = data.mixture
    wanted = {
        "weight (data.train)": any(source.weight is not None for source in data.sources),
        "epochs (data.train)": any(source.epochs != 1 for source in data.sources),
        "data.mixture.temperature": mixture.temperature is not None,
        "data.mixture.balance_by": mixture.balance_by is not None,
        "data.mixture.curriculum": mixture.curriculum is not None,
    }
    rules = [f"rule {rule.rule}" for rule in data.rules if isinstance(rule, WHOLE_DATA)]
    return [name for name, is_wanted in wanted.items() if is_wanted] + rules
