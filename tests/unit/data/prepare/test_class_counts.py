"""Counts of labels, and the refusal of one without an example."""

from __future__ import annotations

import numpy as np
import pytest

from raysft.data.prepare.class_counts import count_categories, count_classes, refuse_empty, tells_label
from raysft.errors import DataError
from raysft.recipe.columns import Classes


def test_counts_of_one_label_and_of_several() -> None:
    one, several = Classes(("a", "b", "c")), Classes(("a", "b"), several=True)
    assert count_classes(np.array([0, 2, 2], np.float32), one) == {"a": 1, "b": 0, "c": 2}
    assert count_classes(np.array([[1, 1], [0, 1]], np.float32), several) == {"a": 1, "b": 2}


def test_what_is_not_known_is_counted_as_no_label() -> None:
    one, several = Classes(("a", "b"), optional=True), Classes(("a", "b"), several=True, optional=True)
    assert count_classes(np.array([0, -1, 1, -1], np.float32), one) == {"a": 1, "b": 1}
    assert count_classes(np.array([[1, 0], [-1, -1], [0, 0]], np.float32), several) == {"a": 1, "b": 0}


@pytest.mark.parametrize(
    ("domains", "labels", "told"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], True),
        ([0, 0, 1, 1, 2], [0, 0, 1, 1, 0], True),
        ([0, 0, 1, 1], [0, 1, 1, 1], False),
        ([0, 0, 1, 1], [0, 1, -1, -1], False),  # labels of one domain alone: the usual case
        ([0, 0, 1, 1], [1, 1, -1, -1], False),
    ],
)
def test_a_domain_that_tells_the_label(domains: list[int], labels: list[int], told: bool) -> None:
    assert tells_label(np.array(domains, np.float32), np.array(labels, np.float32)) is told


def test_what_has_no_labels_beside_it_tells_none(caplog: pytest.LogCaptureFixture) -> None:
    """Domains of answers, or of pairs."""
    domains, labels = Classes(("x", "y"), name="domain", column="domain"), Classes(("a", "b"))
    values = np.array([0, 0, 1], np.float32)
    assert count_categories({domains: values}, is_learnt=True) == {"domains": {"x": 2, "y": 1}}
    assert not caplog.records
    count_categories({labels: values, domains: values}, is_learnt=True)
    assert "each domain has texts of one label alone" in caplog.text


def test_a_label_without_an_example_is_refused() -> None:
    refuse_empty({"a": 1, "b": 2})
    with pytest.raises(DataError, match="no example") as found:
        refuse_empty({"a": 1_000, "b": 0})
    assert found.value.got == "no training sample of 'b'; a 1,000"
    with pytest.raises(DataError) as found:
        refuse_empty({"a": 0, "b": 0})
    assert found.value.got == "no training sample of 'a', 'b'"
    with pytest.raises(DataError, match=r"objective\.domains"):
        refuse_empty({"a": 1, "b": 0}, "domain")
