"""What a rule over a run's records has found, and how it is told on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that a rule found."""

    rule: str
    what: str
    """In a few words."""
    evidence: str
    """The numbers that it was seen by."""
    threshold: str
    """From where on the rule speaks."""
    advice: str
    """What may help."""
    settings: tuple[str, ...] = ()
    """Changes of the recipe that may help, as of `--set`."""
    steps: tuple[int, ...] = ()
    """Steps whose samples are worth a look."""

    @property
    def title(self) -> str:
        """The rule's name in words."""
        return self.rule.replace("_", " ")


def finding_lines(findings: Sequence[Finding], places: Mapping[int, Sequence[str]]) -> list[str]:
    """For a terminal. places: {step: where its samples come from}."""
    if not findings:
        return ["diagnosis    nothing was found"]
    lines = ["diagnosis"]
    for one in findings:
        lines.append(f"  {one.title}: {one.what}")
        lines += [f"    seen by    {one.evidence}", f"    threshold  {one.threshold}", f"    advice     {one.advice}"]
        lines += [f"               --set {setting}" for setting in one.settings]
        lines += [f"    step {step}: samples of {', '.join(places[step])}" for step in one.steps if step in places]
    return lines
