"""The verbs of `import raysft`: a recipe in, an object out. Nothing heavy is imported before a verb is called.

All of them raise the errors of raysft.errors: UserError for what the caller can mend, such as an installed package
that cannot be imported (broken_imports.py). Ray is joined where `RAY_ADDRESS` says, else started here and ended. A
script that calls a verb needs no `if __name__ == "__main__"`: workers import raysft, not the script.

Imports stand inside the functions: a hub that does not answer is to be found out before transformers is imported
(model/hub.py), and `raysft --help` must not wait for torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from raysft.api import broken_imports

if TYPE_CHECKING:
    from raysft.api.answers import GeneratedAnswers
    from raysft.api.checks import Checked
    from raysft.api.comparisons import Comparison
    from raysft.api.data import DataReport, PreparedData, Preview
    from raysft.api.kubernetes import Manifest
    from raysft.api.models import Tokenizer
    from raysft.api.plans import Plan
    from raysft.api.runs import Evaluation, Run
    from raysft.api.studies import Study
    from raysft.evaluate.sampling import Sampling
    from raysft.recipe.schema import Recipe


@broken_imports.told()
def load(path: str | os.PathLike[str], changes: Mapping[str, object] | Sequence[str] = ()) -> Recipe:
    """Read a recipe file (YAML).

    changes: values by dotted field, `{"train.max_steps": 50}`, or as on the command line, `["train.max_steps=50"]`;
    later ones win. Raises RecipeError with every mistake, the field and the nearest key.
    """
    from raysft.api.changes import assignments
    from raysft.recipe.load import load_recipe

    return load_recipe(os.fspath(path), assignments(changes))


@broken_imports.told()
def preview(recipe: Recipe, num: int = 3, *, packed: bool = False, raw: bool = False) -> Preview:
    """The first `num` records as they become tokens: which are trained, what the rules changed, what is refused.

    packed: as the rows that they would fill. raw: a line for each token, with its id. Needs no Ray. Raises UserError.
    """
    _settle(recipe)
    from raysft.api.data import preview

    return preview(recipe, num, packed=packed, raw=raw)


@broken_imports.told()
def plan(recipe: Recipe, cluster: str | None = None) -> Plan:
    """Which layouts fit a cluster, how much memory each needs and how fast it would be, the best first.

    cluster: nodes as `8xH100-80G,8xH100-80G` or `2x8xA100-40G`; default: the recipe's CPU workers on this machine.
    Loads no weights, starts nothing. Raises UserError.
    """
    _settle(recipe)
    from raysft.api.plans import plan

    return plan(recipe, cluster)


@broken_imports.told()
def manifest(
    recipe: Recipe, on: str, model: str | None = None, *, verb: Literal["train", "tune", "doctor"] = "train"
) -> Manifest:
    """A ConfigMap and RayJobs of KubeRay: one that makes the token store on CPUs, then one that trains or searches.

    on: a YAML file that describes the Kubernetes cluster (image, nodes, storage, secrets). Sizes of pods are the
    planner's. model: a directory with the model's config.json, where `model.source` is seen in the cluster only.
    Talks to nobody. Raises UserError.
    """
    _settle(recipe)
    from raysft.api.kubernetes import manifest

    return manifest(recipe, on, model, verb)


@broken_imports.told()
def check(recipe: Recipe) -> Checked:
    """What is known of a run before its data are read, in seconds. Starts and writes nothing.

    Raises UserError with the first thing that would stop the run.
    """
    _settle(recipe)
    from raysft.api.checks import check

    return check(recipe)


@broken_imports.told()
def prepare(recipe: Recipe) -> PreparedData:
    """Make the token stores of a recipe on Ray Data, or find them. Raises UserError."""
    _settle(recipe)
    from raysft.api.data import prepare

    return prepare(recipe)


@broken_imports.told()
def train(recipe: Recipe, *, profile_steps: int = 0) -> Run:
    """Bring the run that a recipe names to its end: prepare, train, evaluate, export, report.

    A run of the same name and mathematics goes on from its last commit; a finished one is returned as it is.
    profile_steps: steps of rank 0 that torch's profiler traces. Raises RaysftError.
    """
    _settle(recipe)
    from raysft.api.runs import train

    return train(recipe, profile_steps=profile_steps)


@broken_imports.told()
def evaluate(subject: Recipe | Run, model: str | None = None) -> Evaluation:
    """Held-out loss, perplexity and greedy answers of an exported model, on the recipe's held-out data.

    subject: a run, or the recipe of one. model: an export or any transformers directory with safetensors; default:
    the run's own export. Raises UserError.
    """
    recipe = subject.recipe if hasattr(subject, "recipe") else subject
    _settle(recipe)
    from raysft.api.runs import evaluate

    return evaluate(recipe, model)


@broken_imports.told()
def compare(runs: Sequence[str | os.PathLike[str] | Run], out: str | os.PathLike[str] | None = None) -> Comparison:
    """Runs beside each other: where their recipes differ, their curves, what was measured and how sure the gaps are.

    runs: two or more, each by its directory, its recipe's file or what `train` returned; changes are against the
    first. They may be under way. out: a page to write. Raises UserError.
    """
    from raysft.api.comparisons import compare

    named = [os.fspath(run) if isinstance(run, str | os.PathLike) else run.location for run in runs]
    return compare(named, None if out is None else os.fspath(out))


@broken_imports.told()
def generate(
    model: str | os.PathLike[str],
    questions: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    how: Sampling | None = None,
    system: str = "",
    raw: bool = False,
    batch_size: int = 8,
) -> GeneratedAnswers:
    """Answer each question of a file into a file of JSON lines; the same call goes on where one has ended.

    model: a run's directory, its export's, or any transformers directory with safetensors. questions: records with
    `prompt`, `messages` or `text`, or of a format that trains (their last answer is left out), in any file that
    trains. how: raysft.Sampling; default: greedily, 256 tokens at most. What is drawn depends on its seed and a
    question's place in the file. system: for questions without a system turn. raw: no template. Runs in this process,
    without Ray. Raises UserError.
    """
    _quiet_accelerator()
    from raysft.api.answers import generate

    source, asked, answers = os.fspath(model), os.fspath(questions), os.fspath(out)
    return generate(source, asked, answers, how, system=system, raw=raw, batch_size=batch_size)


@broken_imports.told()
def tune(recipe: Recipe) -> Study:
    """Search the fields in the recipe's `tune:` to the end of its budget, or go on with that search.

    Raises RaysftError.
    """
    _settle(recipe)
    from raysft.api.studies import tune

    return tune(recipe)


@broken_imports.told()
def study(recipe: Recipe) -> Study:
    """The search of a recipe as far as it has come. Raises UserError when it has not begun."""
    _settle(recipe)
    from raysft.api.studies import study

    return study(recipe)


@broken_imports.told()
def data_report(recipe: Recipe, *, attributes: Sequence[str] = (), out: str | None = None) -> DataReport:
    """Lengths, languages, duplicates, personal data, quality, groups and bias of the training data; a page, too.

    attributes: protected columns to compare. out: the page (default: in the recipe's storage). Raises UserError.
    """
    _settle(recipe)
    from raysft.api.data import data_report

    return data_report(recipe, attributes=attributes, out=out)


@broken_imports.told()
def train_tokenizer(
    files: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    vocab_size: int = 16_000,
    template: str = "chatml",
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Tokenizer:
    """Train a byte-level BPE on the texts of records (jsonl, json, parquet) and write it to `out`.

    template: chat template to keep in it. columns: field of a record -> column of the file. Raises UserError.
    """
    from raysft.api.models import train_tokenizer

    named = [os.fspath(file) for file in files]
    return train_tokenizer(
        named, os.fspath(out), vocab_size=vocab_size, template=template, columns=columns or {}, overwrite=overwrite
    )


def _settle(recipe: Recipe) -> None:
    """Before transformers and deepspeed are imported, which read the environment then: hub, accelerator.

    Raises RecipeError for what is no recipe.
    """
    from raysft.model.hub import settle_hub
    from raysft.recipe.load import expect_recipe

    settle_hub(expect_recipe(recipe))
    _quiet_accelerator()


def _quiet_accelerator() -> None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # this process's own; workers are told theirs
