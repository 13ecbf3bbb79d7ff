"""`raysft evaluate judge`: a judge's verdicts on systems' answers, what they say of the systems, what they cost."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from raysft.addresses import is_private_way
from raysft.errors import UserError
from raysft.human.command import Asked
from raysft.human.results import result_lines, results_of
from raysft.human.store import Rating
from raysft.human.study import Study, is_right, make_study
from raysft.judge.client import Endpoint
from raysft.judge.prompts import agreed
from raysft.judge.verdicts import Line, judged, totals

KEY = "RAYSFT_JUDGE_KEY"
"""Variable that the endpoint's key is read from: arguments are seen by every user of a machine."""


def endpoint(url: str, model: str, per_minute: float, *, insecure_http: bool = False) -> Endpoint:
    """Raises UserError where the address is none, or the key would be read on its way there."""
    if not _is_address(url):
        raise UserError(
            "the judge has no address",
            got=url,
            expected="the address of an OpenAI-compatible server, up to /v1",
            fix="--url http://127.0.0.1:8000/v1",
        )
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            f"{KEY} is no key",
            got="characters that no header may hold",
            expected="ASCII letters, digits and signs in one line",
            fix=f"set {KEY} anew",
        )
    if key and not insecure_http and not is_private_way(url):
        raise UserError(
            f"the key would travel to {urlsplit(url).hostname} for everybody on the way to read",
            got=f"plain http to another machine, and {KEY}",
            expected="https, or an address of this machine",
            fix="use https or a tunnel that ends here; or --insecure-http where the network is trusted",
        )
    return Endpoint(url, model, key, per_minute)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:  # brackets without an end, a port above 65535
        return False


def judge(
    asked: Asked,
    of: Endpoint,
    out: str,
    *,
    parallel: int,
    prices: tuple[float, float],
) -> list[str]:
    """Has every item judged, or finds it in `out`; the results as lines. prices: of a million tokens, in and out."""
    study = make_study(
        asked.mode, asked.answers, gold=asked.gold, criteria=asked.criteria, seed=asked.seed, most=asked.most
    )
    lines, new = judged(study, of, out, parallel=parallel)
    ratings = ratings_of(study, lines, of.model)
    found = result_lines(study, results_of(study, [of.model], ratings))
    shown = [line for line in found if not line.startswith(("agreement", "rater"))]
    return [*shown, *_facts(study, lines, ratings), *_costs(lines, new, prices)]


def ratings_of(study: Study, lines: Sequence[Line], model: str) -> list[Rating]:
    """The judge as a rater: of pairs what both orders say; without items whose reply was nonsense."""
    by_item: dict[int, list[Any]] = defaultdict(list)
    for line in lines:
        by_item[line["item"]].append(line["value"])
    values = {item: agreed(*of) if study.mode == "pairwise" else of[0] for item, of in by_item.items()}
    return [Rating(model, item, value, 0.0, 0.0) for item, value in values.items() if value is not None]


def _facts(study: Study, lines: Sequence[Line], ratings: Sequence[Rating]) -> list[str]:
    """How far the judge can be believed: nonsense, places, gold."""
    nonsense = sum(line["value"] is None for line in lines)
    found = [f"nonsense     {nonsense} of {len(lines)} replies; {len(study.items) - len(ratings)} items are left out"]
    if study.mode == "pairwise":
        pairs = [(one["value"], other["value"]) for one, other in zip(lines[::2], lines[1::2], strict=True)]
        both = [pair for pair in pairs if None not in pair]
        same = sum(one == other for one, other in both)
        decided = [(line["value"] == "second") == line["flipped"] for line in lines if line["value"] in _SIDES]
        share = f"{sum(decided) / len(decided):.0%}" if decided else "-"
        found.append(
            f"order        {same} of {len(both)} verdicts survive an exchange of sides; the others are ties;"
        )
        found.append(f"             the answer that came first was chosen in {share}")
    known = [one for one in ratings if not study.items[one.item].is_judged]
    if known:
        right = sum(is_right(study.items[one.item], one.value) for one in known)
        found.append(f"gold         {right} of {len(known)} right")
    return found


_SIDES = ("first", "second")


def _costs(lines: Sequence[Line], new: int, prices: tuple[float, float]) -> list[str]:
    tokens = totals(lines)
    text = f"cost         {tokens[0]:,} tokens in, {tokens[1]:,} out; {new} of {len(lines)} replies asked for now"
    if any(prices):
        cost = sum(count * price for count, price in zip(tokens, prices, strict=True)) / 1e6
        text += f"; {cost:.4f} at {prices[0]:g} and {prices[1]:g} a million"
    return [text]
