"""An evaluation in one line."""

from __future__ import annotations

import pytest

from raysft.run.summary import evaluation_line


@pytest.mark.parametrize(("told", "of"), [({"of_pairs": True}, " of the preferred answers"), ({}, "")])
def test_a_held_out_loss_says_what_it_is_of(told: dict[str, bool], of: str) -> None:
    evaluation = {"loss": 1.5, "perplexity": 4.48, "exact_match": None, "num_prompts": 0, **told}
    assert evaluation_line(evaluation) == f"held-out loss{of} 1.5000, perplexity 4.48"
