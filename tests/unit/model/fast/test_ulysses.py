"""Sequence parallelism: parts of rows and parts of heads, with ranks that are threads and exchange what they have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import LLAMA, make_model
from torch import Tensor

from raysft.errors import ModelError
from raysft.model.fast import ulysses
from raysft.model.fast.attention import use_segment_attention
from raysft.model.fast.ulysses import (
    ULYSSES,
    SequenceGroup,
    heads_of_rows,
    rows_of_heads,
    ulysses_attention,
    use_ulysses_attention,
)

NOBODY: Any = None


def groups(size: int) -> list[SequenceGroup]:
    return [SequenceGroup(NOBODY, rank, size) for rank in range(size)]


@pytest.fixture
def everyone(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Runs act(rank's group) on all ranks at once; an exchange gives rank r piece r of everybody."""

    def run(size: int, act: Callable[[SequenceGroup], Any]) -> list[Any]:
        given: dict[int, Tensor] = {}
        meeting = threading.Barrier(size)

        def exchange(pieces: Tensor, sequence: SequenceGroup) -> Tensor:
            assert len(pieces) == size
            given[sequence.rank] = pieces
            meeting.wait(10)
            received = torch.stack([given[other][sequence.rank] for other in range(size)])
            meeting.wait(10)
            return received

        monkeypatch.setattr(ulysses, "_exchange", exchange)
        found: list[Any] = [None] * size

        def work(group: SequenceGroup) -> None:
            found[group.rank] = act(group)

        threads = [threading.Thread(target=work, args=(group,)) for group in groups(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return found

    return run


@pytest.mark.parametrize("tokens", [1, 4, 5, 8])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_of_a_row_are_the_row_and_its_padding(tokens: int, size: int) -> None:
    for shape in ((2, tokens), (2, tokens, 3)):
        rows = torch.rand(shape)
        parts = [group.own(rows, -7.0) for group in groups(size)]
        assert len({part.shape for part in parts}) == 1
        whole = torch.cat(parts, dim=1)
        assert torch.equal(whole[:, :tokens], rows)
        assert whole.shape[1] % size == 0
        assert whole.shape[1] - tokens < size
        assert (whole[:, tokens:] == -7.0).all()


@pytest.mark.parametrize("size", [2, 4])
def test_a_rank_gets_whole_rows_of_its_heads_and_the_way_back_is_the_inverse(
    size: int, everyone: Callable[..., list[Any]]
) -> None:
    rows, heads, tokens, width = 2, 8, 12, 3
    whole = torch.rand(rows, heads, tokens, width)

    def act(group: SequenceGroup) -> tuple[Tensor, Tensor]:
        part = whole.chunk(size, dim=2)[group.rank]
        by_head = heads_of_rows(part, group)
        return by_head, rows_of_heads(by_head.transpose(1, 2), group)

    for rank, (by_head, back) in enumerate(everyone(size, act)):
        assert torch.equal(by_head, whole.chunk(size, dim=1)[rank])
        assert torch.equal(back, whole.chunk(size, dim=2)[rank].transpose(1, 2))


@pytest.mark.parametrize(("kv_heads", "size"), [(4, 2), (2, 4), (1, 2)])
def test_attention_of_parts_is_the_attention_of_whole_rows(
    kv_heads: int, size: int, everyone: Callable[..., list[Any]]
) -> None:
    """Keys and values of fewer heads than ranks are repeated until there is one for each."""
    rows, heads, tokens, width = 1, 8, 8, 4
    query = torch.rand(rows, heads, tokens, width)
    key, value = torch.rand(2, rows, kv_heads, tokens, width).unbind()
    borders = torch.tensor([0, 5, 8], dtype=torch.int32)
    how: dict[str, Any] = {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "scaling": 0.5, "dropout": 0.0}
    how |= {"max_length_q": 5, "max_length_k": 5}
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, heads // kv_heads  # type: ignore[assignment]

    def act(group: SequenceGroup) -> Tensor:
        q, k, v = (x.chunk(size, dim=2)[group.rank] for x in (query, key, value))
        return ulysses_attention(module, q, k, v, None, sequence=group, **how)[0]

    found = torch.cat(everyone(size, act), dim=1)  # [B, T, H, E]
    k, v = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (key, value))
    scores = query @ k.transpose(2, 3) * 0.5
    place = torch.arange(tokens)
    allowed = (place[:, None] >= place) & ((place[:, None] < 5) == (place < 5))
    expected = scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_a_model_without_segment_attention_is_refused() -> None:
    model = make_model(LLAMA, attention="sdpa")
    with pytest.raises(ModelError, match="takes segment borders") as caught:
        use_ulysses_attention(model)
    assert "llama with attention sdpa" in caught.value.got
    assert "parallel.sequence: 1" in caught.value.fix
    use_segment_attention(model)
    for _ in range(2):
        use_ulysses_attention(model)
        assert model.config._attn_implementation == ULYSSES
