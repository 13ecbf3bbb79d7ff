"""The loss primitive: log-probabilities of the target tokens, the LM head computed only at them.

Shapes: B rows, T tokens a row, D hidden size, V vocabulary, N targets in the micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

IGNORE = -100
"""Label of a position that predicts nothing."""


def target_log_probs(model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> Tensor:
    """log p(label | its segment so far) at every position whose label is not IGNORE, row by row.

    input_ids, position_ids, labels: [B, T] int64; labels[b, t] is the token to predict AT position t.
    Positions restart at 0 where a segment starts: transformers reads the segments from that, as long as
    no 2-D attention mask is passed. Returns [N] float32.

    Must run inside the wrapped module's forward: under ZeRO-3 the head's weight is empty outside it.
    """
    hidden = model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False)[0]  # [B, T, D]
    wanted = labels != IGNORE  # [B, T]
    logits = head_logits(model, hidden[wanted])  # [N, V]
    normaliser = torch.logsumexp(logits, dim=-1)  # [N]
    chosen = logits.gather(-1, labels[wanted].unsqueeze(-1)).squeeze(-1)  # [N]
    return chosen - normaliser


def head_logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """LM head on hidden states [N, D] -> float32 logits [N, V], with the model's own scale and soft cap."""
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    logits: Tensor = head(hidden).float()
    config = model.config.get_text_config().to_dict()
    if config.get("logit_scale"):  # Cohere
        logits = logits * config["logit_scale"]
    if config.get("logits_scaling"):  # Granite
        logits = logits / config["logits_scaling"]
    if config.get("final_logit_softcapping"):  # Gemma 2: cap * tanh(x / cap), arXiv:2408.00118
        cap = config["final_logit_softcapping"]
        logits = cap * torch.tanh(logits / cap)
    return logits


def check_isolation(model: PreTrainedModel, vocab_size: int, *, packing: bool = True) -> float:
    """Do segments in one row see each other, and is our head the model's own?

    Compares the log-probabilities of two random segments, packed in a row (packing=False: each in its own),
    with those of transformers' own forward on each alone. Returns the largest difference; the caller refuses
    when it is not small.
    """
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    segments = [torch.randint(0, vocab_size, (1, n), generator=generator).to(device) for n in (7, 12)]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        rows = [segments] if packing else [[segment] for segment in segments]
        ours = torch.cat([_row_log_probs(model, row) for row in rows])
        theirs = []
        for segment in segments:
            log_probs = model(input_ids=segment, use_cache=False).logits.float().log_softmax(-1)
            theirs.append(log_probs[0, :-1].gather(-1, segment[0, 1:, None]).squeeze(-1))
    model.train(was_training)
    return float((ours - torch.cat(theirs)).abs().max())


def _row_log_probs(model: PreTrainedModel, segments: list[Tensor]) -> Tensor:
    """target_log_probs of segments [1, n] packed in one row, every token but each first a target."""
    positions = torch.cat([torch.arange(s.shape[1], device=s.device) for s in segments]).unsqueeze(0)
    ends = [torch.full_like(s[:, :1], IGNORE) for s in segments]
    labels = torch.cat([part for s, end in zip(segments, ends, strict=True) for part in (s[:, 1:], end)], dim=1)
    return target_log_probs(model, torch.cat(segments, dim=1), positions, labels)
