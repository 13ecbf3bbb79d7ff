"""A state copied by another thread while the training goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from raysft.engine.slices import Slice, whole
from raysft.train.commits import snapshot


def test_an_update_beats_while_the_copy_makes_progress_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "LOOK_S", 0.1)
    stuck, answers = threading.Event(), threading.Event()
    beats: list[bool] = []

    def state() -> Iterator[Slice]:
        for name in "abcdefgh":
            time.sleep(0.1)
            yield whole(name, torch.ones(1))
        stuck.set()
        assert answers.wait(10)

    one = snapshot.Snapshot()
    one.begin()
    thread = threading.Thread(target=one.take, args=(state(), lambda: None))
    thread.start()
    threading.Timer(2.0, answers.set).start()
    one.wait(lambda: beats.append(stuck.is_set()))
    thread.join()
    assert beats.count(False) >= 3
    assert beats.count(True) <= 2, "nobody answered"


def test_memory_is_kept_from_save_to_save_as_far_as_it_fits() -> None:
    one, wide = snapshot.Snapshot(), torch.arange(6.0)
    for size, is_same in ((6, None), (6, True), (4, False)):
        before = one.share.get("weight:a")
        one.begin()
        one.take(iter([whole("weight:a", wide[:size])]), lambda: None)
        after = one.share["weight:a"]
        assert after.values.tolist() == wide[:size].tolist()
        assert after.values.data_ptr() != wide.data_ptr()
        if before is not None:
            assert (before.values.data_ptr() == after.values.data_ptr()) is is_same
