"""Tasks of lm-evaluation-harness on a model: as they are, with its numbers as it gives them. The one doorway to it.

What a task asks, how its answers are scored and with which seeds is the harness's own; the model is the one that
raysft answers with, in this process.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raysft.errors import DataError, UserError
from raysft.evaluate.ready import ReadyModel

FEWSHOT_SEED, NUMPY_SEED, TORCH_SEED = 1234, 1234, 1234
"""The harness's own defaults; Python's is 0."""


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    tasks: tuple[str, ...]
    """Tasks, groups or tags, by the harness's names."""
    include: str | None = None
    """A directory with task files of one's own."""
    limit: int | None = None
    """Documents of each task; None: all."""
    batch_size: int = 8


Loaded = Mapping[str, Any]
"""{tasks: {name: an object of the harness}, groups}."""


def harness_version() -> str:
    """Raises UserError: it is not installed."""
    if find_spec("lm_eval") is None:
        raise UserError(
            "lm-evaluation-harness is not installed",
            got="no module lm_eval",
            expected="the extra `harness`",
            fix="pip install 'raysft[harness]'",
        )
    return importlib.metadata.version("lm_eval")


def load_tasks(asked: Asked) -> Loaded:
    """The tasks with their data. Raises UserError: a name is unknown; DataError: its data is not here."""
    from lm_eval.tasks import TaskManager

    if asked.include is not None and not Path(asked.include).is_dir():
        raise UserError(
            "there are no task files to include",
            got=f"--include {asked.include}, which is no directory",
            expected="a directory with task files (YAML)",
            fix="check the path",
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=asked.include, include_defaults=False) if asked.include else None
    if manager is None or not set(asked.tasks) <= {*manager.all_tasks}:  # reading all 14,000 takes its time
        manager = TaskManager(include_path=asked.include)
    known = manager.all_tasks
    for name in asked.tasks:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise UserError(
                f"the harness has no task {name}",
                got=f"{name}; {len(known):,} tasks, groups and tags are known",
                expected=f"one like {', '.join(near)}" if near else "a name of `lm_eval ls tasks`, or of a task file",
                fix="correct --tasks, or name the directory of your task files by --include",
            )
    try:
        loaded: Loaded = manager.load(list(asked.tasks))
    except Exception as error:  # of the harness, of a task's own code, of what reads its data
        if not (isinstance(error, OSError) or "cache" in str(error)):
            raise _no_task(asked, error) from error
        raise DataError(
            f"the data of a task is not here: {', '.join(asked.tasks)}",
            got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            expected="data in the hub's cache of this machine, or a network that leads to the hub",
            fix="fetch it where there is a network (lm_eval's own run does) and set HF_HOME to it; or write a task "
            "file with `dataset_path: json` and `dataset_kwargs: {data_files: FILE}`, in a directory for --include",
        ) from error
    return loaded


def run_tasks(model: ReadyModel, loaded: Loaded, asked: Asked) -> dict[str, dict[str, Any]]:
    """{task or group: {metrics: {name: {value, stderr}}, samples, version, num_fewshot, hash}}, as JSON.

    hash: of the documents, prompts and targets that were asked, as the harness makes it; empty for groups. Raises
    UserError.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    generator = model.generator
    if generator.forward is not None:
        raise UserError(
            f"the harness cannot run {model.name}",
            got="an adapter with a forward of its own (prompt, p_tuning, prefix)",
            expected="a model that transformers runs by itself",
            fix="evaluate it by evaluate.sets, or export a merged model of a method that has one",
        )
    for name, task in loaded["tasks"].items():
        _refuse_lost_targets(name, task)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    random.seed(0)
    np.random.seed(NUMPY_SEED)
    torch.manual_seed(TORCH_SEED)
    generator.model.eval()
    lm = HFLM(pretrained=generator.model, tokenizer=generator.tokenizer, batch_size=asked.batch_size)
    try:
        found = evaluate(lm=lm, task_dict=loaded, limit=asked.limit, log_samples=True)
    except ValueError as error:
        raise UserError(
            "the harness refuses these tasks",
            got=" ".join(str(error).split())[:300],
            expected="tasks that run no code of answers in this process",
            fix="for code use `passes_tests` in evaluate.sets; else see the harness's own documentation",
        ) from error
    except Exception as error:  # of a task's templates and functions
        if isinstance(error, RuntimeError | MemoryError | OSError):  # of torch and the machine
            raise
        raise _no_task(asked, error) from error
    return {name: _record(name, numbers, found) for name, numbers in found["results"].items()}


def _refuse_lost_targets(name: str, task: Any) -> None:
    """Raises UserError where doc_to_target names no column: the harness takes the name itself for the answer, and
    every document counts as wrong."""
    wanted = task.get_config("doc_to_target")
    is_word = isinstance(wanted, str) and wanted.isidentifier()
    if not is_word or wanted in task.features or task.get_config("process_results") is not None:
        return
    document = next(iter(task.eval_docs), None)
    if document is not None and task.OUTPUT_TYPE == "multiple_choice" and wanted in task.doc_to_choice(document):
        return  # the same answer to all
    near = difflib.get_close_matches(wanted, task.features, n=1)
    raise UserError(
        f"doc_to_target of the task {name} names no column of its data",
        got=f"{wanted}; there are {', '.join(task.features)}",
        expected=f"a column{f', such as {near[0]}' if near else ''}, or a template with {{{{...}}}}",
        fix="correct doc_to_target in the task file",
    )


def _no_task(asked: Asked, error: Exception) -> UserError:
    return UserError(
        f"a task cannot be used: {', '.join(asked.tasks)}",
        got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
        expected="a task file as the harness documents it, whose columns are those of its data",
        fix="correct the task file; `lm_eval validate --tasks NAME --include_path DIR` checks it",
    )


def _record(name: str, numbers: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {}
    for key, value in numbers.items():
        metric, _, rule = key.partition(",")
        if not rule or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = numbers.get(f"{metric}_stderr,{rule}")
        metrics[key] = {"value": float(value), "stderr": float(stderr) if isinstance(stderr, int | float) else None}
    samples = found["samples"].get(name, [])
    return {
        "metrics": metrics,
        "samples": found["n-samples"].get(name, {}).get("effective"),
        "version": found["versions"].get(name),
        "num_fewshot": found["n-shot"].get(name),
        "hash": task_hash(samples) if samples else "",
    }


def task_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """Equal for the same documents, prompts and targets (lm_eval/loggers/evaluation_tracker.py makes it so)."""
    parts = [sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
