"""What the host knows of a batch, against its tensors and by hand."""

from __future__ import annotations

from objective_rows import CPU, batches

from raysft.objectives.batch import on_device, on_host


def test_what_is_known_of_rows_is_what_their_tensors_say() -> None:
    """The second batch has two rows, the first of them padded: 9 and 15 tokens."""
    batch = on_device(batches(())[1], CPU)
    known, starts = batch.known, [0, 2, 15, 18, 21, 26]
    assert known.firsts.index.tolist() == starts
    assert known.lasts.index.tolist() == [1, 8, 17, 20, 25, 29]
    assert known.borders.ends == (0, 2, 9, 15, 18, 21, 26, 30), "the padding is a segment, too"
    assert known.borders.starts.tolist() == list(known.borders.ends)
    assert known.borders.longest == 7
    assert known.trained.of(batch.labels).tolist() == batch.labels[batch.labels != -100].tolist()
    assert known.predicting.of(batch.labels).tolist() == batch.labels[batch.predicts].tolist()


def test_the_parts_of_two_ranks_are_those_of_the_rows() -> None:
    """15 tokens a row are padded to 16, so that each rank has 8; borders stay those of whole rows."""
    host = batches(())[1]
    whole, parts = on_host(host).known, [on_host(host, (rank, 2)).known for rank in range(2)]
    for kind in ("trained", "predicting", "firsts", "lasts"):
        expected = {(int(i) // 15, int(i) % 15) for i in vars(whole)[kind].index}
        found = [(int(i) // 8, int(i) % 8 + 8 * rank) for rank in range(2) for i in vars(parts[rank])[kind].index]
        assert set(found) == expected
        assert len(found) == len(expected)
    assert parts[0].borders.ends == parts[1].borders.ends == (0, 2, 9, 15, 16, 19, 22, 27, 31, 32)
