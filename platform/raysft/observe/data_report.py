"""The data report: report.html and the summary on a terminal, both from one survey. Owns what is told in which words.

Input is the plain data that raysft.data.report.survey returns, so that a page can be made from report.json alone.
Everything is escaped. No text of a record is shown: only places, counts, labels and values of metadata columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from raysft.observe.charts import histogram
from raysft.observe.pages import page_template

Survey = Mapping[str, Any]

_NUMBER = re.compile(r"<?[\d,.]+%?")
_MOST = 12
"""Lines of a table before the rest is summed up."""
_PII_NAMES = {
    "email": "e-mail addresses",
    "phone": "phone numbers",
    "china_id": "Chinese national ids",
    "us_ssn": "US social security numbers",
    "bank_card": "bank cards",
    "ip": "IP addresses",
    "secret": "keys and tokens",
}
_DUPLICATES = {
    "exact_duplicates": "exact duplicates",
    "near_duplicates": "near duplicates of others",
    "conflicts": "records whose prompt has different answers",
}


def render_data_report(survey: Survey) -> str:
    """The page as HTML text."""
    return page_template("data_report.html").render(
        survey=survey,
        tiles=_tiles(survey),
        advice=[_with_code(line) for line in survey["advice"]],
        lengths=Markup(_length_chart(survey)),
        quality=Markup(_quality_chart(survey)),
        languages=share_bars(survey["languages"]),
        labels=share_bars(survey["labels"]),
        groups={name: share_bars(values) for name, values in survey["groups"].items()},
        pii=[(_PII_NAMES.get(kind, kind), number) for kind, number in survey["pii"]],
        pii_action=survey["actions"].get("pii"),
        duplicates=duplicates(survey),
        sample=_sample(survey),
        number=number,
        share=share,
        quantiles=quantiles(survey),
    )


def survey_lines(survey: Survey) -> list[str]:
    """The report on a terminal: plain aligned lines; those without an indent are headings."""
    lines: list[str] = []
    for title, rows in _sections(survey):
        if rows:
            lines += [title, *("  " + line for line in aligned(rows))]
    if survey["advice"]:
        lines += ["advice", *(f"  - {line}" for line in survey["advice"])]
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of columns; numbers to the right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if index and _NUMBER.fullmatch(cell) else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def share_bars(table: Sequence[tuple[str, float]]) -> list[tuple[str, float, float, float]]:
    """(name, count, share, width of the bar in percent) of the most frequent lines, the others as one."""
    total, shown = sum(n for _, n in table), list(table)
    if len(shown) > _MOST + 1:
        rest = shown[_MOST:]
        shown = [*shown[:_MOST], (f"{len(rest)} others", sum(n for _, n in rest))]
    largest = max((n for _, n in shown), default=1)
    return [(name, n, n / total, 100 * n / largest) for name, n in shown]


def duplicates(survey: Survey) -> list[tuple[str, int]]:
    """(kind, records that another one makes superfluous)."""
    return [(text, survey["duplicates"][rule]) for rule, text in _DUPLICATES.items() if rule in survey["duplicates"]]


def quantiles(survey: Survey) -> str:
    """`shortest 12, 50% 101, 90% 190, 99% 300, longest 412`."""
    return ", ".join(f"{name} {value:,}" for name, value in survey["lengths"]["quantiles"].items())


def number(value: float) -> str:
    """1,234 or 0.123."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(part: float, whole: float) -> str:
    """`12.3%`, and `<0.1%` for what would read as none."""
    ratio = part / whole if whole else 0.0
    return "<0.1%" if 0 < ratio < 0.0005 else f"{ratio:.1%}"


def _with_code(line: str) -> Markup:
    """Text between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(line))))


def _tiles(survey: Survey) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the numbers on top."""
    records, kept, tokens = survey["records"], survey["kept"], survey["tokens"]
    pii = sum(n for _, n in survey["pii"])
    dropped = min(kept, survey["over_long"]) if survey["over_long_policy"].endswith(": drop") else 0
    mean = survey["quality"]["mean"]
    tiles = [
        ("records", f"{records:,}", f"in {_plural(survey['files'], 'file')}"),
        ("kept", share(kept - dropped, records), _plain(records - kept, dropped)),
        ("tokens", f"{tokens:,}", f"{share(survey['target_tokens'], tokens)} of them trained"),
        (f"tokens of a {_sample(survey)}", f"{survey['lengths']['quantiles'].get('50%', 0):,}", "median"),
        ("duplicates", f"{_superfluous(survey):,}", "exact and near"),
        ("personal data", f"{pii:,}", "hits"),
    ]
    if mean is not None:
        tiles.append(("quality", f"{mean:.2f}", "mean, from 0 to 1"))
    if survey["languages"]:
        first, most = survey["languages"][0]
        tiles.append(("languages", f"{len(survey['languages'])}", f"{share(most, survey['conversations'])} {first}"))
    return tiles


def _sample(survey: Survey) -> str:
    """What a record becomes: a `sample`, or a `pair` of them, whose tokens are counted together."""
    return str(survey.get("sample", "sample"))  # surveys of earlier versions do not say


def _plain(refused: int, dropped: int) -> str:
    """What is not kept: refused by what it is, and left out when it is packed."""
    return f"{refused:,} refused" + (f", {dropped:,} longer than data.max_tokens" if dropped else "")


def _superfluous(survey: Survey) -> int:
    found = survey["duplicates"]
    return int(found.get("exact_duplicates", 0) + found.get("near_duplicates", 0))


def _length_chart(survey: Survey) -> str:
    bins, limit = survey["lengths"]["bins"], survey["max_tokens"]
    if not bins:
        return ""
    width = bins[0]["to"]
    samples = f"{_sample(survey)}s"
    titles = [f"{b['from']:,} to {b['to'] - 1:,} tokens: {b['samples']:,} {samples}" for b in bins[:-1]]
    titles.append(f"{bins[-1]['from']:,} tokens and more: {bins[-1]['samples']:,} {samples}")
    every = max(1, len(bins) // 10)
    return histogram(
        [b["samples"] for b in bins],
        [(index, f"{bins[index]['from']:,}") for index in range(0, len(bins), every)],
        x_label=f"tokens of a {_sample(survey)} (the last bar holds all longer ones)",
        y_label=samples,
        width=1040,
        height=300,
        titles=titles,
        mark=(limit / width, f"data.max_tokens {limit:,}") if limit <= bins[-1]["to"] else None,
    )


def _quality_chart(survey: Survey) -> str:
    counts = survey["quality"]["bins"]
    step = 1 / len(counts)
    return histogram(
        counts,
        [(index, f"{index * step:.1f}") for index in range(0, len(counts) + 1, 4)],
        x_label="quality score",
        y_label="records",
        width=500,
        height=260,
        titles=[f"{i * step:.2f} to {(i + 1) * step:.2f}: {n:,} records" for i, n in enumerate(counts)],
    )


def _sections(survey: Survey) -> Iterator[tuple[str, list[list[str]]]]:
    records, conversations = survey["records"], survey["conversations"]
    yield "records", [[label, value, remark] for label, value, remark in _tiles(survey)]
    yield (
        f"tokens of a {_sample(survey)}",
        [[name, f"{value:,}"] for name, value in survey["lengths"]["quantiles"].items()]
        + ([["over data.max_tokens", f"{survey['over_long']:,}"]] if survey["over_long"] else []),
    )
    yield "languages", _counted(survey["languages"], conversations)
    components = survey["quality"]["components"]
    yield "quality, mean of each component", [[name, f"{value:.2f}"] for name, value in components.items()]
    hits = [(_PII_NAMES.get(kind, kind), n) for kind, n in survey["pii"]]
    yield "personal data found", [[name, f"{n:,}"] for name, n in hits]
    yield "duplicates", [[name, f"{n:,}"] for name, n in duplicates(survey) if n]
    yield (
        "largest clusters",
        [[f"{c['size']:,} records", c["kind"], c["first"]] for c in survey["clusters"][:5]],
    )
    yield (
        "refused",
        [
            [r["reason"], f"{r['count']:,}", share(r["count"], records), "first: " + r["first"][0]]
            for r in survey["refused"]
        ],
    )
    yield (
        "keys that are not read",
        [[line["kind"], line["name"], share(line["count"], records)] for line in survey["not_read"]],
    )
    yield "findings of the recipe's rules", [[name, f"{n:,}"] for name, n in survey["findings"]]
    yield "findings of other rules, reported only", [[name, f"{n:,}"] for name, n in survey["found"]]
    yield "labels", _counted(survey["labels"], sum(n for _, n in survey["labels"]))
    for name, values in survey["groups"].items():
        if len(values) > 1:
            yield f"column {name}", _counted(values, sum(n for _, n in values))
    for entry in survey["bias"]:
        yield f"groups of {entry['attribute']}", _bias_rows(entry)
        yield f"differences between groups of {entry['attribute']}", _disparity_rows(entry)


def _counted(table: Sequence[tuple[str, float]], total: float) -> list[list[str]]:
    return [[name, f"{n:,}", share(n, total)] for name, n, _, _ in share_bars(table)]


def _bias_rows(entry: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for group in entry["groups"]:
        row = [group["group"], f"{group['records']:,}", f"{group['share']:.1%}"]
        if entry["labelled"]:
            row += [f"{label} {rate:.1%}" for label, rate in group["labels"].items()][:5]
        elif group["kept"]:
            row += [f"{group['answer_chars']:,.0f} characters an answer", f"quality {group['quality']:.2f}"]
        rows.append([*row, *([] if group["judged"] else ["(too few to judge)"])])
    return rows


def _disparity_rows(entry: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            d["measure"],
            f"{d['ratio']:.2f}",
            f"{d['lowest'][0]} {number(d['lowest'][1])} / {d['highest'][0]} {number(d['highest'][1])}",
            "BELOW FOUR FIFTHS" if d["marked"] else "",
        ]
        for d in entry["disparity"]
    ]


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
