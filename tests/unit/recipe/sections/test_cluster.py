"""`cluster:`: a number of workers, or a range of which the nodes decide."""

from __future__ import annotations

from typing import Any

import pytest
from sections import read, refused


@pytest.mark.parametrize(
    ("cluster", "most", "fewest"),
    [
        ({}, 1, None),
        ({"workers": 4}, 4, None),
        ({"workers": {"min": 2, "max": 4}}, 4, 2),
        ({"workers": 4, "min_workers": 3}, 4, 3),
    ],
)
def test_a_range_is_the_most_and_the_fewest(cluster: dict[str, Any], most: int, fewest: int | None) -> None:
    found = read(cluster=cluster).cluster
    assert (found.workers, found.min_workers) == (most, fewest)


def test_a_range_survives_being_written_down() -> None:
    recipe = read(cluster={"workers": {"min": 2, "max": 4}})
    assert read(**recipe.model_dump(mode="json")) == recipe


def test_variables_of_the_workers() -> None:
    env = {"NCCL_SOCKET_IFNAME": "eth0", "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000", "MONKEY_MODE": "1"}
    assert read(cluster={"env": env}).cluster.env == env


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"workers": 0}, ("cluster.workers", "1 or more")),
        ({"workers": {"min": 2}}, ("cluster.workers",)),
        ({"workers": {"min": 2, "max": 4, "most": 5}}, ("cluster.workers",)),
        ({"workers": {"min": 0, "max": 4}}, ("min_workers", "1 or more")),
        ({"workers": {"min": 1, "max": 4}, "min_workers": 2}, ("cluster.workers",)),
        ({"gpus_per_worker": 2}, ("cluster.gpus_per_worker", "1")),
        ({"gpus_per_worker": 0.5}, ("cluster.gpus_per_worker", "0.5")),
        ({"hang_timeout_s": 0}, ("cluster.hang_timeout_s", "more than 0")),
        ({"max_failures": -1}, ("cluster.max_failures", "0 or more")),
        ({"setup_timeout_s": 0}, ("cluster.setup_timeout_s", "more than 0")),
        ({"env": {"HF_TOKEN": "hf_x"}}, ("cluster.env", "HF_TOKEN looks like a secret")),
        ({"env": {"aws_secret_access_key": "x"}}, ("cluster.env", "looks like a secret")),
        ({"env": {"RAY_ADDRESS": "x"}}, ("cluster.env", "set by raysft itself")),
        ({"env": {"A-B": "x"}}, ("cluster.env", "no name of an environment variable")),
        ({"env": {"NCCL_DEBUG": 1}}, ("cluster.env",)),
    ],
)
def test_what_is_refused(cluster: dict[str, Any], words: tuple[str, ...]) -> None:
    told = refused(cluster=cluster)
    assert all(word in told for word in words), told
