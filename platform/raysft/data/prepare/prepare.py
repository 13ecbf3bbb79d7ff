"""Recipe -> token stores, on Ray Data. Composes the stages; a finished store is a cache hit.

    read tasks -> shards (shards.py) -> whole-data rules (whole_data.py) -> the epoch's sequence (mixture.py)
    -> windows, packed and written as parts (windows.py) -> manifest (assemble.py), last

Every arrow runs on the cluster and leaves files: a killed prepare goes on with the shards that are finished, and
two prepares of the same data do the work once. Stores depend on the data alone, never on the cluster. A store that is
there is read once and compared with its manifest; what is damaged is made anew. One that was made of files which
somebody wrote to meanwhile is never published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray

from raysft import storage
from raysft.data.on_ray import on_ray
from raysft.data.prepare.assemble import choose, first_prompts, make_manifest, write_rejects
from raysft.data.prepare.fingerprint import Side, check_unchanged, describe_set, describe_sides
from raysft.data.prepare.matched_counts import refuse_lonely
from raysft.data.prepare.prepared import Prepared, Store
from raysft.data.prepare.stream_certificate import sample_manifest
from raysft.data.prepare.tasks import make_part, make_shard, part_item, shard_item
from raysft.data.read.sources import ReadTask, describe_line, plan_reads
from raysft.data.rules.whole_data import Selection, select
from raysft.data.store.manifest import MANIFEST, REJECTS, find_damage, problem_of, read_manifest, write_manifest
from raysft.data.store.parts import write_prompts
from raysft.data.store.shards import Summary, resume, shard_path
from raysft.data.store.versions import check_compatible, chosen_fingerprint, record_version, store_location
from raysft.data.store.windows import CURRICULUM_WINDOW, WINDOW, Contents
from raysft.errors import ClusterError, DataError, StorageError
from raysft.lease import lease
from raysft.recipe.evaluation_sets import set_sources
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import SourceSection
from raysft.storage import check_writable, join

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with (what is made: `shards` or `parts`, how many are done, how many there will be)."""


def prepare(recipe: Recipe, *, progress: Progress = lambda what, done, total: None) -> Prepared:
    """The recipe's token stores, made now or found. Ray must be initialised."""
    if not ray.is_initialized():
        raise ClusterError(
            "data is prepared on Ray, which is not running here",
            got="ray.is_initialized() is False",
            expected="a Ray cluster, local or joined",
            fix="call ray.init() before prepare()",
        )
    sides = _with_versions(recipe, describe_sides(recipe))
    streamed = recipe.data.mode == "stream"
    manifests = _find_or_make(recipe, sides[1:] if streamed else sides, progress)
    train = sample_manifest(sides[0]) if streamed else manifests["train"]
    if sides[0].stage.answers == "matched":
        refuse_lonely(train, recipe.train.rows_per_step)
    if not streamed:
        record_version(recipe, train["fingerprint"])
    return Prepared(
        train=None if streamed else sides[0].location,
        eval=sides[1].location if len(sides) > 1 else None,
        train_manifest=train,
        eval_manifest=manifests.get("eval"),
        sets={name: _set_store(recipe, name, source, progress) for name, source in set_sources(recipe).items()},
    )


def _set_store(recipe: Recipe, name: str, source: SourceSection, progress: Progress) -> Store:
    """The store of evaluate.sets.<name>, made now or found."""
    try:
        side = describe_set(recipe, source)
        return Store(side.location, _find_or_make(recipe, [side], progress)["eval"])
    except DataError as error:
        its, own = f"evaluate.sets.{name}", recipe.evaluate.sets.get(name)
        what = error.what.replace("data.columns", f"{its}.columns")
        fix = error.fix.replace("data.eval", f"{its}.data")
        if own is not None and own.format is None and recipe.data.format != "auto":
            fix += f"; or set {its}.format, which is data.format where it is not said: {recipe.data.format}"
        raise DataError(
            what if its in what else f"{its}: {what}", got=error.got, expected=error.expected, fix=fix
        ) from error


def _find_or_make(recipe: Recipe, sides: Sequence[Side], progress: Progress) -> dict[str, dict[str, Any]]:
    """The manifest of every side's store."""
    intact = {side.name: manifest for side in sides if (manifest := _intact(side)) is not None}
    if len(intact) == len(sides):
        for side in sides:
            logger.info("token store %s: cache hit", side.location)
        return intact

    def found() -> dict[str, dict[str, Any]]:
        manifests = {side.name: _readable(side) for side in sides}
        return {name: manifest for name, manifest in manifests.items() if manifest is not None}

    def is_done() -> bool:
        return len(found()) == len(sides)

    for side in sides:
        check_writable(side.location)
    work = join(storage.absolute(recipe.storage), "tokens", f"work-{sides[0].fingerprint[:16]}")
    with lease(join(work, "lease"), done=is_done, waiting=_say_waiting) as ours:
        if ours and not is_done():
            _make(recipe, sides, work, progress)
    if ours:  # the lease in it, too, is no longer held
        storage.remove_tree(work)
    return found()


def _intact(side: Side) -> dict[str, Any] | None:
    """The manifest of a store whose files are all as they were written; None: it is to be made.

    The manifest of a damaged store is deleted, so that nobody takes it for a store, whatever ends this process.
    """
    manifest = _readable(side)
    problems = [] if manifest is None else list(find_damage(side.location, manifest))
    if not problems:
        if manifest is not None:
            _say_lost_rejects(side, manifest)
        return manifest
    listed = "; ".join(f"{name}: {problem}" for name, problem in problems[:3])
    _refuse_if_lost(side, listed)
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    logger.warning("the token store %s is damaged (%s%s): it is made anew", side.location, listed, more)
    storage.remove_tree(join(side.location, MANIFEST))
    return None


def _say_lost_rejects(side: Side, manifest: dict[str, Any]) -> None:
    location = join(side.location, REJECTS)
    wanted = manifest["rejects_sha256"]
    try:
        problem = problem_of(location, wanted) if wanted is not None else None
    except StorageError as error:
        problem = error.got
    if problem is not None:
        logger.warning("the list of refused records is damaged, the tokens are not: %s (%s)", location, problem)


def _readable(side: Side) -> dict[str, Any] | None:
    """The manifest; None where there is none, or a damaged one, which is deleted."""
    try:
        return read_manifest(side.location)
    except DataError as error:
        _refuse_if_lost(side, error.got)
        logger.warning("%s (%s): it is made anew", error.what, error.got)
        storage.remove_tree(join(side.location, MANIFEST))
        return None


def _refuse_if_lost(side: Side, problem: str) -> None:
    """A store that the data was rolled back to is of files that may be gone: it cannot be made anew."""
    if side.is_rolled_back:
        raise DataError(
            "the store that the data was rolled back to is damaged",
            got=f"{side.location}: {problem}",
            expected="the bytes that were written when it was made",
            fix="bring that file back from a copy, or `raysft data rollback` to another version (`raysft data log`)",
        )


def train_fingerprint(recipe: Recipe) -> str:
    """The fingerprint of the recipe's training store, without making it and without Ray."""
    return _with_versions(recipe, describe_sides(recipe))[0].fingerprint


def _with_versions(recipe: Recipe, sides: list[Side]) -> list[Side]:
    """The sides, the training side after a rollback being the older store."""
    train, *others = sides
    fingerprint = chosen_fingerprint(recipe, train.fingerprint)
    if fingerprint != train.fingerprint:
        check_compatible(recipe, fingerprint, train.inputs)
        logger.warning("data         rolled back to the store %s (`raysft data log`)", fingerprint[:16])
        location = store_location(recipe, fingerprint)
        train = replace(train, fingerprint=fingerprint, location=location, is_rolled_back=True)
    return [train, *others]


def _say_waiting(holder: str) -> None:
    logger.info("the same data is being prepared by %s; waiting for it", holder)


@dataclass(frozen=True)
class _Shards:
    """The shards of one pass over some files."""

    tasks: list[ReadTask]
    locations: list[str]
    summaries: list[Summary]


def _make(recipe: Recipe, sides: Sequence[Side], work: str, progress: Progress) -> None:
    """Write the stores that are missing. Held-out files come first: the rule `leakage` compares with them."""
    passes: dict[str, _Shards] = {}
    for side in sorted(sides, key=lambda side: side.name):  # eval, train
        if side.shards not in passes:
            passes[side.shards] = _write_shards(side, join(work, side.shards), recipe, progress)
    check_unchanged(recipe, sides)
    for side in sides:
        if _readable(side) is not None:
            continue
        selection = Selection.none()
        if side.name == "train":
            others = [path for name, shards in passes.items() if name != side.shards for path in shards.locations]
            ours = passes[side.shards].locations
            selection = select(ours, others, recipe.data.rules, out=join(side.location, "duplicates"))
        _write_store(recipe, side, passes[side.shards], selection, progress)


def _write_shards(side: Side, work: str, recipe: Recipe, progress: Progress) -> _Shards:
    tasks = plan_reads(side.files)
    done = resume(work, [one.stamp for one in side.contents])
    if done:
        logger.info("going on with %d of %d finished shards", len(done), len(tasks))
    items = [shard_item(index, task) for index, task in enumerate(tasks) if index not in done]
    make = partial(make_shard, work=work, files=side.files, stage=side.stage)
    for index, summary in on_ray(make, items):
        done[index] = summary
        _refuse_malformed(summary, side, recipe)
        progress("shards", len(done), len(tasks))
    for summary in done.values():
        _refuse_malformed(summary, side, recipe)
    locations = [shard_path(work, index) for index in range(len(tasks))]
    return _Shards(tasks, locations, [done[index] for index in range(len(tasks))])


def _refuse_malformed(summary: Summary, side: Side, recipe: Recipe) -> None:
    """Stop at a bad record when data.on_bad_record says so."""
    if recipe.data.on_bad_record != "fail":
        return
    bad = [
        (reject["sample_id"], reason, reject["detail"])
        for counts in summary["sides"].values()
        for reason, rejects in counts["first"].items()
        for reject in rejects
        if reject["malformed"]
    ]
    if bad:
        sample_id, reason, detail = min(bad)
        raise DataError(
            f"a bad record at {describe_line(sample_id, side.files)}",
            got=f"{reason}: {detail}",
            expected="only good records, because data.on_bad_record is `fail`",
            fix="correct the record, or set data.on_bad_record: refuse to count and skip it",
        )


def _write_store(recipe: Recipe, side: Side, shards: _Shards, selection: Selection, progress: Progress) -> None:
    """The side's sequence of samples -> parts, prompts, rejects, and last the manifest."""
    chosen = choose(recipe, side, shards.locations, shards.tasks, shards.summaries, selection)
    size = WINDOW if recipe.data.mixture.curriculum is None else CURRICULUM_WINDOW
    num_windows = -(-len(chosen.shards) // size)
    windows = [slice(index * size, (index + 1) * size) for index in range(num_windows)]
    items = [part_item(index, chosen.shards[own], chosen.rows[own]) for index, own in enumerate(windows)]
    write = partial(
        make_part,
        location=side.location,
        shards=shards.locations,
        max_tokens=recipe.data.max_tokens,
        contents=Contents(side.stage.has_atoms, side.stage.fields),
    )
    parts: dict[int, dict[str, Any]] = {}
    for index, part in on_ray(write, items):
        parts[index] = part
        progress("parts", len(parts), num_windows)
    rejects_sha256 = write_rejects(side, shards.locations, shards.summaries, selection)
    prompts = first_prompts(chosen, shards.locations) if side.name == "eval" else []
    prompts_sha256 = write_prompts(side.location, prompts) if side.name == "eval" else None
    ordered = [parts[index] for index in range(num_windows)]
    sums = {"prompts_sha256": prompts_sha256, "rejects_sha256": rejects_sha256}
    manifest = make_manifest(side, chosen, ordered, num_prompts=len(prompts), sums=sums)
    write_manifest(side.location, manifest)
