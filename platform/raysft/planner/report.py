"""What `raysft plan` prints: the ranking of layouts and why, the matrix. At most 120 columns."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from dataclasses import asdict
from itertools import product
from typing import Any

from raysft.planner.devices import GIB, Cluster
from raysft.planner.host import gib, host_memory, save_lines
from raysft.planner.layout import HEADROOM, LayoutForecast, breakdown, less_per_pass, replicas
from raysft.planner.memory import adapted_names, adapter_parameters, bytes_basis, micro_steps
from raysft.planner.speed import COMPUTE_EFFICIENCY, LINK_EFFICIENCY
from raysft.planner.states import basis
from raysft.planner.tasks import task_lines
from raysft.recipe.change import change
from raysft.recipe.compatibility import PRECISIONS, Verdict, cells, verdict
from raysft.recipe.facts import ModelShape
from raysft.recipe.objective_traits import OBJECTIVES
from raysft.recipe.schema import Recipe
from raysft.recipe.traits import METHODS, method_of, virtual_tokens

SHOWN = 10
"""Layouts in the table, the recipe's own besides."""


def describe(
    recipe: Recipe, shape: ModelShape, cluster: Cluster, ranked: list[LayoutForecast], own: int | None
) -> list[str]:
    """The whole plan. own: place of the recipe's layout among the ranked; None: it is refused or was left open."""
    return [
        *_heading(recipe, shape, cluster),
        "",
        *_table(ranked, own),
        "",
        *_reasons(ranked, cluster),
        *(_own(ranked, own)),
    ]


def _heading(recipe: Recipe, shape: ModelShape, cluster: Cluster) -> list[str]:
    device, train = cluster.device, recipe.train
    kind = shape.model_type if shape.is_known else f"{shape.model_type} (no shape of its own: counted as a Llama)"
    size = f"{_number(shape.num_parameters)} parameters, {shape.num_layers} layers x {shape.hidden_size}"
    rows = f"{train.rows_per_step} rows x {recipe.data.max_tokens:,} tokens"
    rates = f"{device.node_rate / 1e9:.4g} GB/s in a node, {device.network_rate / 1e9:.3g} out"
    room = f"{device.memory_bytes / GIB:.1f} GiB ({HEADROOM:.0%} stay free)"
    lines = [
        f"model     {kind}, {size}",
        f"step      {rows}, {train.micro_batch_rows} row(s) in a forward pass, {train.precision}",
        f"cluster   {cluster.num_devices} x {device.name}, {cluster.devices_per_node} a node; each "
        f"{room}, {device.peak_in(train.precision) / 1e12:,.4g} TFLOP/s in {train.precision}, {rates}",
        f"counted   {_basis(recipe)}",
        f"load      {_load(recipe)}",
        *save_lines(recipe, shape, cluster),
        *task_lines(recipe, shape, cluster),
        f"assumed   kernels reach {COMPUTE_EFFICIENCY:.0%} of the peak, collectives {LINK_EFFICIENCY:.0%} of a link: "
        "the order is worth more than the seconds",
    ]
    method = method_of(recipe)
    if not method.trains_base:
        names = ", ".join(linear.name for linear in shape.linears if linear.name in adapted_names(recipe, shape))
        single = change(recipe, {"parallel.tensor": 1})
        outer = method.outer_parameters(recipe.method, shape)
        trained = _number(shape.num_layers * adapter_parameters(single, shape) + outer)
        size, where, title = method.size(recipe.method), f" on {names}" if names else "", f"{method.title} "
        lines.insert(1, f"{title:<10}{trained} parameters{f', {size}' if size else ''}{where}")
    if shape.teacher_parameters:
        held = f"{_number(shape.teacher_parameters)} parameters, whole on every worker, in {recipe.train.precision}"
        lines.insert(1, f"teachers  {held}; their forward passes are in the step")
    if extra := virtual_tokens(recipe):
        lines.append(
            f"uncounted {extra} virtual tokens before every sample of a row but one: the run's first passes try the "
            "row of the store that has most samples"
        )
    return lines


def _load(recipe: Recipe) -> str:
    """What a worker's memory holds while the weights come into it (decision 034)."""
    is_fresh = recipe.model.source == "random"
    takes, done = ("fresh weights: each worker makes", "made") if is_fresh else ("each worker reads", "loaded")
    return f"{takes} what it keeps; a type that must be {done} whole is named before the run starts"


def _number(count: int) -> str:
    return f"{count / 1e9:.3f} B" if count >= 1e9 else f"{count / 1e6:.3f} M"


def _basis(recipe: Recipe) -> str:
    stages = (0, 1) if recipe.train.precision == "fp32" else (1, 2)
    first, second = (basis(recipe.train.precision, zero, recipe.optimizer.moments) for zero in stages)
    then = "ZeRO 1-3" if stages == (0, 1) else "ZeRO 2, 3"
    parts = f"weight {second.working} + gradient {second.gradient} + master {second.master}"
    return (
        f"{parts} + optimizer {second.moments} = {second.per_trained} bytes a trained parameter with {then}, "
        f"{first.per_trained} with ZeRO {stages[0]}"
    )


_CLASSES = ("parameters", "masters", "gradients", "optimizer", "activations", "logits", "buffers")
_COLUMNS = ("weigh", "mastr", "grads", "optim", "activ", "logit", "buffr")


def _table(ranked: list[LayoutForecast], own: int | None) -> list[str]:
    lines = [
        f"{'GiB on the fullest worker':>57}{'predicted step':>31}",
        f"{'#':>3}  ZeRO TP PP SP  DP ckpt "
        + "".join(f"{name:>6}" for name in _COLUMNS)
        + f"{'total':>6} {'s':>7} {'tokens/s':>9} {'MFU':>4} {'idle':>4} {'comm':>4}",
    ]
    shown = list(range(min(SHOWN, len(ranked))))
    if own is not None and own not in shown:
        shown.append(own)
    for place in shown:
        lines.append(_row(place, ranked[place], place == own))
    return [
        *lines,
        "TP PP SP DP: tensor, pipeline, sequence, data parallel. idle: pipeline bubble. >: the recipe's layout.",
    ]


def _row(place: int, candidate: LayoutForecast, is_own: bool) -> str:
    parallel, memory, time = candidate.recipe.parallel, candidate.memory, candidate.time
    checkpointing = "yes" if candidate.recipe.train.gradient_checkpointing else "-"
    shown = memory.classes | {"buffers": memory.buffers + memory.saved}
    sizes = "".join(f"{shown[name] / GIB:>6.1f}" for name in _CLASSES)
    note = "too large" if not candidate.fits else "untested" if candidate.status == "untested" else ""
    return (
        f"{place + 1:>3}{'>' if is_own else ' '} {parallel.zero:>4} {parallel.tensor:>2} {parallel.pipeline:>2} "
        f"{parallel.sequence:>2} {replicas(candidate.recipe):>3} {checkpointing:>4} {sizes}{memory.total / GIB:>6.1f}"
        f" {time.total_s:>7.3g} {time.tokens_per_s:>9,.0f} {time.mfu:>4.0%} {time.bubble:>4.0%} "
        f"{time.communication_share:>4.0%} {note}"
    ).rstrip()


def _reasons(ranked: list[LayoutForecast], cluster: Cluster) -> list[str]:
    """Why the first is first, why the next are slower, and why the others do not fit."""
    fitting = [candidate for candidate in ranked if candidate.fits]
    room = cluster.device.memory_bytes * (1 - HEADROOM) / GIB
    if not fitting:
        least = min(ranked, key=lambda candidate: candidate.memory.total)
        return [
            f"none fits  the least is {least.memory.total / GIB:.1f} of {room:.1f} GiB: {least.words}",
            f"           {breakdown(least.memory)}",
        ]
    first = fitting[0]
    lines = [f"fastest    {first.words}"]
    tested = next((c for c in fitting if c.status == "tested"), None)
    if tested is not first:
        lines.append("tested     " + (tested.words if tested else "none of those that fit; check the first losses"))
    for place, candidate in enumerate(fitting[1:4], 2):
        slower = candidate.time.total_s / first.time.total_s - 1
        how = f"{slower:.0%} slower" if slower >= 0.005 else "as fast"
        lines.append(f"{place:<10} {how}: {_cost(candidate)}")
    over = len(ranked) - len(fitting)
    if over:
        largest = Counter(max(c.memory.classes, key=c.memory.classes.__getitem__) for c in ranked if not c.fits)
        told = ", ".join(f"{name} in {count}" for name, count in largest.most_common())
        lines.append(f"too large  {over} of {len(ranked)} layouts exceed {room:.1f} GiB; the largest part is {told}")
    return lines


def _cost(candidate: LayoutForecast) -> str:
    """Where the time of a layout goes besides computing, and what its memory is."""
    time, train = candidate.time, candidate.recipe.train
    costs = {
        "communication": time.communication_share,
        "pipeline bubble": time.bubble,
        "recomputed activations": 0.25 if train.gradient_checkpointing else 0.0,
        "optimizer": time.optimizer_s / time.total_s,
    }
    parts = [f"{name} {share:.0%}" for name, share in sorted(costs.items(), key=lambda x: -x[1]) if share >= 0.01]
    passes = micro_steps(candidate.recipe)
    told = ", ".join(parts) or "compute only"
    return f"{told}; {passes} forward pass(es) a step, {candidate.memory.total / GIB:.1f} GiB"


def _own(ranked: list[LayoutForecast], own: int | None) -> list[str]:
    if own is None:
        return []
    candidate = ranked[own]
    verdict_of = "fits" if candidate.fits else "DOES NOT FIT"
    return [
        f"recipe     {candidate.words}: place {own + 1} of {len(ranked)}, {verdict_of}",
        f"           {breakdown(candidate.memory)}",
    ]


def memory_advice(
    recipe: Recipe,
    shape: ModelShape,
    cluster: Cluster,
    offloaded: LayoutForecast | None,
    enough: tuple[Cluster, LayoutForecast] | None,
) -> list[str]:
    """What to change when nothing fits. offloaded, enough: what would, with host memory and with more devices."""
    lines = []
    if offloaded is not None:
        host = gib(host_memory(offloaded.recipe, shape).total * cluster.devices_per_node)
        need = f"{offloaded.memory.total / GIB:.1f} GiB a worker, and {host} of host memory a node"
        lines.append(f"fits with  parallel.offload: cpu, {offloaded.words}: {need}")
    method = "method.kind: lora, " if method_of(recipe).trains_base else ""
    lines.append(f"instead    {method}{less_per_pass(recipe)}, or larger devices")
    if enough is not None:
        larger, candidate = enough
        lines.append(f"           or {larger.num_devices} x {larger.device.name}: {candidate.words}")
    return lines


def as_json(cluster: Cluster, ranked: list[LayoutForecast], own: int | None) -> dict[str, Any]:
    """All numbers, in bytes and seconds."""
    return {
        "cluster": asdict(cluster),
        "recipe": own,
        "layouts": [
            {
                "parallel": candidate.recipe.parallel.model_dump(),
                "gradient_checkpointing": candidate.recipe.train.gradient_checkpointing,
                "status": candidate.status,
                "fits": candidate.fits,
                "basis": asdict(bytes_basis(candidate.recipe)),
                "memory_bytes": {**candidate.memory.classes, "total": candidate.memory.total},
                "time": {
                    **asdict(candidate.time),
                    "total_s": candidate.time.total_s,
                    "tokens_per_s": candidate.time.tokens_per_s,
                    "mfu": candidate.time.mfu,
                },
            }
            for candidate in ranked
        ],
    }


_MARKS = {"tested": "test", "untested": "ok ?", "refused": "  no"}


def matrix_lines() -> list[str]:
    """The compatibility table: a block for each objective and method, rows are axes, columns are stages."""
    found = {cell: verdict(cell) for cell in cells()}
    axes = list(dict.fromkeys(cell.parallel for cell in found))
    rows = defaultdict[tuple[str, str, str, str], list[Verdict]](list)
    for cell, told in found.items():
        rows[cell.objective, cell.method, cell.precision, cell.parallel].append(told)
    lines = []
    for objective, method in product(OBJECTIVES, METHODS):
        head = "".join(f"  {precision:<19}" for precision in PRECISIONS)
        lines += [
            f"{objective + ', ' + method:<30}{head}".rstrip(),
            (f"{'ZeRO':<30}" + "  0    1    2    3   " * len(PRECISIONS)).rstrip(),
        ]
        for parallel in sorted(axes, key=lambda name: (name.count(" x "), axes.index(name))):
            line = f"{parallel:<30}"
            for precision in PRECISIONS:
                line += "  " + " ".join(_MARKS[v.status] for v in rows[objective, method, precision, parallel])
            lines.append(line.rstrip())
    lines += ["", "test: a test trains it. ok ?: allowed, no test trains it (a run says so). no: refused:", ""]
    refusals = dict.fromkeys(v for v in found.values() if v.status == "refused")
    for refusal in refusals:
        lines += _paragraph(refusal)
    tests = dict.fromkeys(test for v in found.values() for test in v.tests)
    return [*lines, "", "tests:", *(f"  {test}" for test in tests)]


def _paragraph(refusal: Verdict) -> list[str]:
    text = f"{refusal.why}. Instead: {refusal.instead}."
    return textwrap.wrap(text, 116, initial_indent="  - ", subsequent_indent="    ")
