"""An image with other versions than the sender's is refused by the driver in it, by name."""

from __future__ import annotations

import pytest
from commands import raysft as command
from kube_material import objects_of

from raysft.errors import ClusterError
from raysft.kube.sent_by import SENT_BY, check_image, sent_by


@pytest.mark.parametrize(
    ("here", "is_other"),
    [
        ("raysft 0.1.0, ray 2.60.0", False),
        ("raysft 0.1.0, ray 2.60.1", False),
        ("raysft 0.1.1, ray 2.60.0", True),
        ("raysft 0.1.0, ray 2.61.0", True),
    ],
)
def test_versions(here: str, is_other: bool) -> None:
    if not is_other:
        return check_image("raysft 0.1.0, ray 2.60.0", here)
    with pytest.raises(ClusterError, match="other versions") as caught:
        check_image("raysft 0.1.0, ray 2.60.0", here)
    assert caught.value.got == here


def test_the_driver_is_told_and_looks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    head = objects_of("cluster.yaml", "train")[-1]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": SENT_BY, "value": sent_by()} in head["containers"][0]["env"]
    monkeypatch.setenv(SENT_BY, "raysft 9.0.0, ray 2.60.0")
    ended = command(capsys, "train", "/etc/raysft/recipe.yaml")
    assert (ended.code, "expected: raysft 9.0.0, ray 2.60.0" in ended.err) == (2, True)
    assert "cannot read" in command(capsys, "check", "/etc/raysft/recipe.yaml").err, (
        "what trains nothing is not asked"
    )
