"""What the records of a run say is wrong with it: rules over its curves, each with evidence, threshold and a remedy.

Pure: lines of metrics in, findings out. A rule that cannot be sure says nothing: a healthy run is not accused.
Windows are medians, so that one odd step is no trend.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from statistics import median

from raysft.observe.curves import Curves, Fields, curves_of
from raysft.observe.findings import Finding
from raysft.recipe.objective_traits import judge_of
from raysft.recipe.schema import Recipe

AT_LEAST = 20
"""Steps below which nothing is judged."""
LOCAL = 32
"""Steps before a step that it is compared with."""
OVERSHOOT, DIVERGED = 1.3, 0.3
LEARNED_LITTLE = 0.03
EVEN, MUCH_LEFT = 0.85, 0.6
RISE, RISE_NATS = 0.03, 0.02
GAP, GAP_NATS = 0.5, 0.2
LEAK, LEAK_NATS = 0.75, 0.1
FLAT, FLAT_HELD_OUT = 0.02, 0.002
SPIKE, JUMP = 10.0, 8.0


def diagnose(lines: Sequence[Fields], recipe: Recipe) -> list[Finding]:
    """What is wrong, the worst first; empty: nothing was found, or there are fewer than AT_LEAST steps."""
    curves = curves_of(lines, judge_of(recipe))
    if len(curves.losses) < AT_LEAST:
        return list(_not_finite(curves, recipe))
    rules = RULES if min(curves.losses) >= 0 and curves.first > 0 else OF_ANY_SIGN
    found = [finding for rule in rules for finding in rule(curves, recipe)]
    hidden = {other for finding in found for other in _EXPLAINS.get(finding.rule, ())}
    return [finding for finding in found if finding.rule not in hidden]


def _not_finite(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    if curves.skipped >= 2:
        yield Finding(
            "not_finite",
            "gradients were not finite",
            f"in {curves.skipped} steps, which were left out",
            "2 steps",
            "lower the learning rate; in bf16 or fp16, try fp32",
            (_rate(recipe, 1 / 3),),
        )


def _diverged(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """It rose again by a large part of what it had fallen, or ends above its beginning."""
    size = curves.window
    levels = [median(curves.losses[at : at + size]) for at in range(0, len(curves.losses) - size + 1, size)]
    best = min(curves.first, *levels)
    back = curves.last - best
    if back > max(DIVERGED * (curves.first - best), 5 * curves.noise, 0.05 * best):
        yield Finding(
            "diverged",
            "the loss rose again",
            f"it was {best:.4g}, and is {curves.last:.4g} at the end; it began at {curves.first:.4g}",
            f"{DIVERGED:.0%} of what it had fallen, and five times its noise ({curves.noise:.2g})",
            "lower the learning rate, and go back to the best commit",
            (_rate(recipe, 1 / 3), "checkpoint.keep_best=true"),
        )


def _rate_high(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """The loss went far above its beginning while the learning rate was high."""
    early = curves.losses[: max(AT_LEAST, len(curves.losses) // 3)]
    threes = [(sorted(early[at : at + 3])[1], curves.numbers[at + 1]) for at in range(len(early) - 2)]
    highest, step = max(threes)
    least = min(level for level, _ in threes)
    begin = max(curves.first, threes[0][0])  # a loss that falls fast is far lower after a few steps
    if highest > OVERSHOOT * begin and highest - begin > 4 * min(curves.noise, 0.1 * begin):
        warmup = max(recipe.optimizer.warmup_steps, len(curves.numbers) // 10)
        yield Finding(
            "learning_rate_high",
            "the learning rate is too high",
            f"the loss rose from {begin:.4g} to {highest:.4g} at step {step}"
            + (f", after {least:.4g}" if least < 0.9 * begin else "")
            + f"; the rate reached {max(curves.rates):.2g}",
            f"{OVERSHOOT:g} times the loss of the first steps, in the first third",
            "a tenth of the rate, with a longer warm-up",
            (_rate(recipe, 0.1), f"optimizer.warmup_steps={warmup}"),
        )


def _learned_little(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """Under-fitting: neither the training loss nor the held-out loss fell much."""
    fall, share = curves.first - curves.last, LEARNED_LITTLE * curves.first
    held_out = curves.held_out[0][1] - curves.held_out[-1][1] if len(curves.held_out) > 1 else -math.inf
    told = (
        f"; held out from {curves.held_out[0][1]:.4g} to {curves.held_out[-1][1]:.4g}" if held_out > -math.inf else ""
    )
    is_sure = curves.noise < share * math.sqrt(curves.window)
    if is_sure and fall < share and held_out < share:
        yield Finding(
            "under_fitting",
            "the model has learned little",
            f"the loss went from {curves.first:.4g} to {curves.last:.4g}{told}",
            f"{LEARNED_LITTLE:.0%} of the first loss",
            "a higher learning rate, more steps, or a method that trains more",
            (_rate(recipe, 10),),
        )


def _rate_low(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """The loss falls as evenly as learning rate is spent: nothing has been learned to the end yet."""
    spent = list(accumulate(curves.rates))
    places = [next(i for i, sum_ in enumerate(spent) if sum_ >= part * spent[-1]) for part in (1 / 3, 2 / 3)]
    size = max(3, len(curves.losses) // 10)
    levels = [
        curves.first,
        *(median(curves.losses[max(0, at - size) : at + size]) for at in places),
        median(curves.losses[-size:]),
    ]
    falls = [a - b for a, b in pairwise(levels)]
    is_sure = len(curves.losses) >= 3 * AT_LEAST and min(falls) > 5 * curves.noise / math.sqrt(size)
    if is_sure and falls[2] > EVEN * max(falls[:2]) and curves.last > MUCH_LEFT * curves.first:
        yield Finding(
            "learning_rate_low",
            "the learning rate is too low, or the run too short",
            f"each third of the learning rate brought as much: {', '.join(f'{fall:.3g}' for fall in falls)}; "
            f"the loss is {curves.last:.4g} after {curves.first:.4g}",
            f"the last third brings {EVEN:.0%} of what each other did, and {MUCH_LEFT:.0%} of the loss are left",
            "a higher learning rate, or more steps",
            (_rate(recipe, 5),),
        )


def _over_fitting(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """Held-out loss rises while the training loss falls, or has parted from it."""
    if len(curves.held_out) < 2:
        return
    (first_step, first), (last_step, last) = curves.held_out[0], curves.held_out[-1]
    best, best_step = min((loss, step) for step, loss in curves.held_out)
    rise = last - best
    then, now = curves.around(max(best_step, 1)), curves.last
    gaps = first - curves.around(max(first_step, 1)), last - now
    has_parted = gaps[1] > GAP * now + GAP_NATS and gaps[0] < gaps[1] / 2
    if rise > max(RISE * best, RISE_NATS) and now < then:
        told = f"held out {best:.4g} at step {best_step}, {last:.4g} at step {last_step}"
        steps = (f"train.max_steps={best_step}",) if best_step else ()
        yield Finding(
            "over_fitting",
            "the model learns its training data by heart",
            f"{told}; in training {then:.4g}, then {now:.4g}",
            f"a rise of {RISE:.0%} and {RISE_NATS:g} while the training loss falls",
            "keep the best commit, stop there, or train on more data",
            ("checkpoint.keep_best=true", *steps),
        )
    elif has_parted:
        yield Finding(
            "over_fitting",
            "the model learns its training data by heart",
            f"held out {last:.4g}, in training {now:.4g}; at the beginning they were {gaps[0]:.3g} apart",
            f"{GAP:.0%} of the training loss and {GAP_NATS:g} apart, and twice as far as at the beginning",
            "fewer epochs, more data, or a smaller rank; measure in between to see where it begins",
            ("checkpoint.keep_best=true", f"evaluate.every_steps={max(1, last_step // 10)}"),
        )


def _leakage(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """Held-out loss far under the training loss, which it was not at the beginning."""
    later = [(step, loss) for step, loss in curves.held_out if step > curves.numbers[-1] / 2]
    if len(later) < 2 or len(curves.held_out) < 3:
        return
    begin, first = curves.held_out[0]
    earlier = curves.around(max(begin, 1))
    if first < 0.9 * earlier:
        return
    trained_at = ((loss, curves.around(step)) for step, loss in later)
    if all(loss < LEAK * trained and trained - loss > LEAK_NATS for loss, trained in trained_at):
        step, loss = later[-1]
        trained = curves.around(step)
        yield Finding(
            "leakage",
            "held-out records may have been trained on",
            f"at step {step} {loss:.4g} held out and {trained:.4g} in training; at step {begin} "
            f"{first:.4g} and {earlier:.4g}",
            f"held out below {LEAK:.0%} of the training loss, and {LEAK_NATS:g}, in the second half, not before",
            "the rule `leakage` of data.rules refuses training records that are held out, too: see the data report",
        )


def _plateau(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """The last two thirds brought nothing, to the held-out data neither, and it is not for want of loss."""
    count, size = len(curves.losses), max(5, len(curves.losses) // 8)
    third = curves.numbers[count // 3]
    then = median(curves.losses[count // 3 - size // 2 : count // 3 + size // 2 + 1])
    before = [loss for step, loss in curves.held_out if step <= third]
    after = [loss for step, loss in curves.held_out if step > third]
    total, last = curves.first - curves.last, median(curves.losses[-size:])
    if len(before) < 2 or not after or curves.last < 0.1 * curves.first:
        return
    if then - last < FLAT * total and min(before) - min(after) < FLAT_HELD_OUT * min(before):
        yield Finding(
            "plateau",
            "the last two thirds brought nothing",
            f"loss {then:.4g} at step {third}, then {last:.4g}; held out {min(before):.4g}, then {min(after):.4g}",
            f"{FLAT:.0%} of the whole fall in training, {FLAT_HELD_OUT:.1%} held out",
            "fewer steps are as good; or it is stuck: another learning rate, more or other data",
            (f"train.max_steps={third}",),
        )


def _spikes(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """Norms of gradients that are many times those of the steps before, and far from all others of the run."""
    known = [norm for norm in curves.norms if math.isfinite(norm)]
    if len(known) < AT_LEAST:
        return
    known.sort()
    usual, large, found = median(known), known[int(0.95 * len(known))], []
    for at in range(8, len(curves.norms)):
        if curves.norms[at] > 3 * large and curves.norms[at] > SPIKE * (
            local := median(curves.norms[max(0, at - LOCAL) : at])
        ):
            found.append((curves.norms[at], local, curves.numbers[at]))
    if found:
        norm, local, step = max(found)
        clip = float(f"{max(2 * usual, 1e-3):.1g}")
        yield Finding(
            "gradient_spikes",
            f"the gradient norm jumped in {len(found)} of {len(curves.norms):,} steps",
            f"the worst: {norm:.3g} at step {step} after a median of {local:.3g}",
            f"{SPIKE:g} times the median of {LOCAL} steps, and 3 times what 95% of all are under",
            "look at these steps' samples; a lower limit on the norm, or a lower learning rate",
            (f"optimizer.max_grad_norm={clip:g}",)
            if clip < recipe.optimizer.max_grad_norm
            else (_rate(recipe, 1 / 3),),
            tuple(number for *_, number in sorted(found, reverse=True)[:3]),
        )


def _bad_batches(curves: Curves, recipe: Recipe) -> Iterator[Finding]:
    """Steps whose loss stands far above those before."""
    found = []
    for at in _far_above(curves.losses):
        near = curves.losses[max(0, at - LOCAL) : at]
        middle = median(near)
        spread = 1.4826 * median(abs(loss - middle) for loss in near)
        excess = curves.losses[at] - middle
        if excess > JUMP * spread and excess > 0.5 * middle and excess > 0.05 * curves.first:
            found.append((excess, curves.losses[at], middle, curves.numbers[at]))
    if found and len(found) <= max(3, len(curves.losses) // 50):
        _, loss, middle, step = max(found)
        factor = max(2, min(5, math.floor(loss / max(middle, 1e-9))))
        yield Finding(
            "bad_batch",
            f"{len(found)} step{'s have' if len(found) > 1 else ' has'} a loss far above those before",
            f"the worst: {loss:.4g} at step {step} after a median of {middle:.4g}",
            f"{JUMP:g} times the spread of {LOCAL} steps, half of their median, and 5% of the first loss",
            "look at these steps' samples; or have such steps rolled back",
            (f"train.spike_factor={factor}",),
            tuple(number for *_, number in sorted(found, reverse=True)[:3]),
        )


def _far_above(losses: Sequence[float]) -> Iterator[int]:
    """Places from the ninth on whose loss is more than half above the least of the LOCAL before: no others are more
    than half above their median. In one pass (the places of falling minima; Lemire 2006)."""
    least: deque[int] = deque()  # places whose losses rise; the first one's is the least of the window
    for at, loss in enumerate(losses):
        if least and least[0] < at - LOCAL:
            least.popleft()
        if at >= 8 and loss > 1.5 * losses[least[0]]:
            yield at
        while least and losses[least[-1]] >= loss:
            least.pop()
        least.append(at)


def _rate(recipe: Recipe, factor: float) -> str:
    return f"optimizer.learning_rate={recipe.optimizer.learning_rate * factor:.1e}"


RULES = (
    *(_not_finite, _diverged, _rate_high, _over_fitting, _leakage),
    *(_bad_batches, _spikes, _learned_little, _rate_low, _plateau),
)
"""In the order in which findings are told."""

OF_ANY_SIGN = (_not_finite, _spikes)
"""Those that compare no shares of a loss: a loss that is negative has none."""

_EXPLAINS = {
    "learning_rate_high": ("under_fitting", "learning_rate_low", "plateau", "bad_batch"),
    "diverged": ("under_fitting", "learning_rate_low", "plateau", "over_fitting"),
    "over_fitting": ("plateau",),
    "under_fitting": ("learning_rate_low", "plateau"),
}
"""{rule: those that say the same with less}."""
