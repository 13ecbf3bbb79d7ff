"""Protected attributes: how labels and answers differ between groups, and what can be done about it. Pure.

A ratio below 0.8 between the lowest and the highest rate of a label is marked: the four-fifths rule of the US EEOC's
Uniform Guidelines on Employee Selection Procedures, 29 CFR 1607.4(D). It is a rule of thumb about outcomes: it says
where to look, not that the data is unfair.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ATTRIBUTES = ("gender", "sex", "race", "ethnicity", "age", "religion", "nationality", "dialect", "language")
"""Columns that are compared when the user names none."""
MIN_GROUP = 30
"""Smaller groups are shown, but not judged: a few records decide their rates."""
FOUR_FIFTHS = 0.8
_MAX_LABELS = 10
_MANY_TIMES = 10
_UNEVEN = 1.5


def bias_table(attributes: Mapping[str, Mapping[str, Any]], labels: Mapping[str, int]) -> list[dict[str, Any]]:
    """One entry per attribute: its groups with their rates, and the disparity of each measure."""
    common = [name for name, _ in sorted(labels.items(), key=lambda item: (-item[1], item[0]))][:_MAX_LABELS]
    return [_attribute(name, groups, common) for name, groups in sorted(attributes.items())]


def bias_advice(table: list[dict[str, Any]]) -> list[str]:
    """What to do about the differences, naming the recipe's fields."""
    lines = []
    for entry in table:
        judged = [group for group in entry["groups"] if group["judged"]]
        small = [group["group"] for group in entry["groups"] if not group["judged"]]
        factors = rebalancing(entry)
        if max((factors[group["group"]] for group in judged), default=1) >= _UNEVEN:
            said = ", ".join(f"{name} x{factor:.1f}" for name, factor in factors.items())
            how = (
                "a column with these bands, named in `data.mixture.balance_by`,"
                if entry["bands"]
                else f"`data.mixture.balance_by: {entry['attribute']}`"
            )
            lines.append(
                f"groups of `{entry['attribute']}` differ in size: {how} repeats samples up to the largest group "
                f"({said}). It evens the sizes of groups, not their labels"
            )
        rare = [name for name, factor in factors.items() if factor > _MANY_TIMES]
        if rare:
            lines.append(
                f"`{entry['attribute']}`: balancing would repeat {', '.join(rare)} more than {_MANY_TIMES} times: "
                "the model would learn these records by heart; collect more of them"
            )
        for measure in entry["disparity"]:
            if measure["marked"]:
                low, high = measure["lowest"], measure["highest"]
                lines.append(
                    f"label `{measure['measure']}`: {low[1]:.1%} of {entry['attribute']} {low[0]} but "
                    f"{high[1]:.1%} of {high[0]}. Look at these records; if it is an artefact, write a column that "
                    f"joins {entry['attribute']} and label, and set `data.mixture.balance_by` to it"
                )
        if small:
            lines.append(
                f"`{entry['attribute']}`: too few records to judge (under {MIN_GROUP}): {', '.join(small)}; "
                "collect more"
            )
    return lines


def is_banded(attribute: str) -> bool:
    """Are its numbers compared in bands of ten? `data.mixture.balance_by` takes every number for itself."""
    return attribute.casefold() == "age"


def rebalancing(entry: Mapping[str, Any]) -> dict[str, float]:
    """How often the samples of each group occur with data.mixture.balance_by."""
    largest = max((group["kept"] for group in entry["groups"]), default=0)
    return {group["group"]: largest / group["kept"] for group in entry["groups"] if group["kept"]}


def _attribute(name: str, groups: Mapping[str, Any], labels: list[str]) -> dict[str, Any]:
    total = sum(group["records"] for group in groups.values())
    labelled = any(group["labels"] for group in groups.values())
    rows = []
    for value, group in sorted(groups.items(), key=lambda item: (-item[1]["records"], item[0])):
        kept = group["kept"]
        num_labelled = sum(group["labels"].values())
        rows.append(
            {
                "group": value,
                "records": group["records"],
                "share": group["records"] / total,
                "kept": kept,
                "judged": (num_labelled if labelled else kept) >= MIN_GROUP,
                "labels": {label: group["labels"].get(label, 0) / num_labelled for label in labels}
                if num_labelled
                else {},
                "answer_chars": group["answer_chars"] / kept if kept else None,
                "quality": group["quality"] / kept if kept else None,
            }
        )
    judged = [row for row in rows if row["judged"]]
    if labelled:
        measures = {label: {row["group"]: row["labels"][label] for row in judged} for label in labels}
    else:
        measures = {m: {row["group"]: row[m] for row in judged} for m in ("answer_chars", "quality")}
    disparity = [_disparity(measure, values, marks=labelled) for measure, values in measures.items()]
    return {
        "attribute": name,
        "bands": is_banded(name),
        "labelled": labelled,
        "labels": labels if labelled else [],
        "groups": rows,
        "disparity": [found for found in disparity if found],
    }


def _disparity(measure: str, values: Mapping[str, float], *, marks: bool) -> dict[str, Any] | None:
    """Lowest against highest value of the groups; None where there are not two to compare."""
    if len(values) < 2 or not max(values.values()):
        return None
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    ratio = values[low] / values[high]
    return {
        "measure": measure,
        "lowest": [low, values[low]],
        "highest": [high, values[high]],
        "ratio": ratio,
        "marked": marks and ratio < FOUR_FIFTHS,
    }
