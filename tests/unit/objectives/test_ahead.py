"""Batches on their way to the device."""

from __future__ import annotations

from objective_rows import CPU, batches

from raysft.objectives.ahead import Ahead


def test_batches_come_in_order_one_of_them_early_and_on_a_cpu_without_a_copy() -> None:
    host, asked = batches(()), []

    def given() -> object:
        for batch in host:
            asked.append(batch.index)
            yield batch

    found = []
    for number, batch in enumerate(Ahead(CPU)(given())):  # type: ignore[arg-type]
        assert len(asked) == min(number + 2, len(host))
        assert batch.input_ids.data_ptr() == host[number].input_ids.ctypes.data
        found.append(batch)
    assert len(found) == len(host)
    assert list(Ahead(CPU)([])) == []
