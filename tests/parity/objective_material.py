"""Samples and pairs with reference columns, and the objectives by formula, in plain torch.

References and losses are computed a sample at a time by transformers' own forward; only the store is the package's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from material import CONFIG, write_store
from reference import fresh_model, tokens_and_targets
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from raysft.recipe.columns import REFERENCE_LOG_PROB, SCORE, WANTED, Field, reference_top_k

TOP_K = 4
BETA, KL_WEIGHT = 0.5, 0.3
SMOOTHING, SFT_WEIGHT, GAMMA = 0.2, 0.4, 0.7
SHARE, TEMPERATURE = 0.7, 2.0
WANTED_WEIGHT, CENTRE_WEIGHT = 1.5, 0.01
LABELS, CLASS_WEIGHTS, FOCAL_GAMMA = ("a", "b", "c"), {"b": 2.5}, 1.5
EPSILON = 0.5
HEAT = 0.2
RANK_MARGIN, LIST_CENTRE = 0.1, 1.0
DOMAINS, REVERSAL, SECOND_HEAD, SECOND_RATE = ("x", "y", "z"), 0.8, 7, 3.0
ENCODER = {
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.1,
}
LoraAdded = Callable[[nn.Module], nn.Module]
Formula = Callable[[nn.Module, "Material", Sequence[int]], Tensor]


@dataclass(frozen=True)
class Sample:
    """One answer as tokens."""

    ids: list[int]
    target: list[bool]

    def log_probs(self, model: nn.Module) -> Tensor:
        """log p of every next token under the model, [tokens - 1, V]."""
        return torch.log_softmax(model(input_ids=torch.tensor([self.ids])).logits[0, :-1], -1)

    def answer(self, model: nn.Module) -> Tensor:
        """Sum of log p of the trained tokens."""
        chosen = self.log_probs(model).gather(-1, torch.tensor(self.ids[1:])[:, None])[:, 0]
        return chosen[torch.tensor(self.target[1:])].sum()


@dataclass(frozen=True)
class Material:
    """Samples by their ids, what the reference says of them, and where their store lies."""

    samples: list[Sample]
    reference: list[Any]
    store: str


def make_pairs(directory: Path, tokenizer: PreTrainedTokenizerFast, count: int = 40) -> Material:
    """Sample 2i is preferred to sample 2i + 1. Another model than the untrained one is the reference: margins differ
    from zero from the first step on."""
    draw = random.Random(3)
    samples = []
    for index in range(count):
        question = "".join(draw.choice("abcde ") for _ in range(draw.randint(2, 9)))
        for size in [(3, 20), (14, 2), (8, 8)][index % 3]:
            answer = "".join(draw.choice("abcde ") for _ in range(size))
            samples.append(Sample(*tokens_and_targets(tokenizer, question, answer)))
    other = fresh_model(CONFIG, len(tokenizer), seed=11)
    with torch.no_grad():
        reference = [float(sample.answer(other)) for sample in samples]
    table = _table(samples).append_column("atom", pa.array(np.arange(len(samples)) // 2))
    table = table.append_column(REFERENCE_LOG_PROB.name, pa.array(reference, pa.float32()))
    return Material(samples, reference, write_store(directory / "pairs", table, (REFERENCE_LOG_PROB,)))


def reward_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2203.02155, equation 1, and CENTRE_WEIGHT x the squared sum of scores, of last tokens."""
    costs = []
    for pair in sorted({member // 2 for member in members}):
        scores = []
        for sample in material.samples[2 * pair : 2 * pair + 2]:
            states = model.model(input_ids=torch.tensor([sample.ids])).last_hidden_state
            scores.append(model.score(states[0, -1])[0])
        costs.append(-torch.log(torch.sigmoid(scores[0] - scores[1])) + CENTRE_WEIGHT * (scores[0] + scores[1]) ** 2)
    return torch.stack(costs).mean()


_SCORES = {2: ((3.0, 1.0), (0.5, 0.0)), 3: ((5.0, 2.5, 2.5), (5.0, 2.5, -1.0)), 4: ((5.0, 2.5, 2.5, -1.0),) * 2}
"""{size of a list: scores of two such lists}."""


def make_ranked(directory: Path, pairs: Material) -> Material:
    """The samples of pairs in lists of 3 and 2, the best first, some of them scored alike."""
    lists, sizes = [], (3, 2)
    while sum(map(len, lists)) < len(pairs.samples):
        begin = sum(map(len, lists))
        lists.append(range(begin, min(begin + sizes[len(lists) % 2], len(pairs.samples))))
    if len(lists[-1]) == 1:  # nothing to be compared with
        lists[-2:] = [range(lists[-2].start, lists[-1].stop)]
    scores = [float(score) for number, members in enumerate(lists) for score in _SCORES[len(members)][number % 2]]
    atoms = [number for number, members in enumerate(lists) for _ in members]
    table = _table(pairs.samples).append_column("atom", pa.array(atoms))
    table = table.append_column(SCORE.name, pa.array(scores, pa.float32()))
    return Material(
        pairs.samples, list(zip(atoms, scores, strict=True)), write_store(directory / "ranked", table, (SCORE,))
    )


def ranked_loss(model: nn.Module, material: Material, members: Sequence[int], *, by_pairs: bool) -> Tensor:
    """by_pairs: arXiv:2203.02155, equation 1, a mean over each list's pairs, each with a margin of RANK_MARGIN x the
    difference of its scores. Else minus the log of Plackett's probability of its order. What is scored alike is not
    compared. And LIST_CENTRE x the square of twice a list's mean score."""
    costs = []
    for atom in sorted({material.reference[member][0] for member in members}):
        places = [place for place, (number, _) in enumerate(material.reference) if number == atom]
        given = [material.reference[place][1] for place in places]
        ids = [torch.tensor([material.samples[place].ids]) for place in places]
        scores = [model.score(model.model(input_ids=one).last_hidden_state[0, -1])[0] for one in ids]
        of_list = []
        for better, own in zip(scores, given, strict=True):
            worse = [(score, own - other) for score, other in zip(scores, given, strict=True) if other < own]
            if by_pairs:
                of_list += [-torch.log(torch.sigmoid(better - one - RANK_MARGIN * gap)) for one, gap in worse]
            elif worse:
                of_list.append(torch.log(1 + sum(torch.exp(one - better) for one, _ in worse)))
        centre = LIST_CENTRE * (2 * torch.stack(scores).mean()) ** 2
        costs.append(centre + (torch.stack(of_list).mean() if by_pairs else torch.stack(of_list).sum()))
    return torch.stack(costs).mean()


def make_classified(directory: Path, pairs: Material) -> Material:
    """The samples of pairs, each with a label."""
    table = _table(pairs.samples).append_column(
        "label", pa.array(map(label_of, range(len(pairs.samples))), pa.float32())
    )
    field = Field("label", "atom", "<f4")
    return Material(pairs.samples, [], write_store(directory / "classified", table, (field,)))


def label_of(member: int) -> int:
    """Of a sample."""
    return member % 7 % len(LABELS)


def classify_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """Focal cross-entropy (arXiv:1708.02002, equation 5) of last tokens, weighted by classes, a mean over samples."""
    costs = []
    for member in members:
        states = model.model(input_ids=torch.tensor([material.samples[member].ids])).last_hidden_state
        p = torch.softmax(model.score(states[0, -1]), -1)[label_of(member)]
        costs.append(-CLASS_WEIGHTS.get(LABELS[label_of(member)], 1.0) * (1 - p) ** FOCAL_GAMMA * torch.log(p))
    return torch.stack(costs).mean()


def make_domains(directory: Path, pairs: Material) -> Material:
    """The samples of pairs, each with a domain, two of three with a label."""
    members = range(len(pairs.samples))
    labels = [label_of(member) if has_label(member) else -1 for member in members]
    table = _table(pairs.samples).append_column("label", pa.array(labels, pa.float32()))
    table = table.append_column("domain", pa.array(map(domain_of, members), pa.float32()))
    fields = (Field("label", "atom", "<f4"), Field("domain", "atom", "<f4"))
    return Material(pairs.samples, [], write_store(directory / "domains", table, fields))


def has_label(member: int) -> bool:
    """Of a sample."""
    return member % 3 != 1


def domain_of(member: int) -> int:
    """Of a sample."""
    return member // 3 % len(DOMAINS)


def with_second(model: nn.Module, width: int) -> nn.Module:
    """With the head that tells domains, as it begins: normal, deviation 1 / sqrt(inputs), by the seed."""
    draw = torch.Generator().manual_seed(0)
    model.second = nn.Sequential(nn.Linear(width, SECOND_HEAD), nn.ReLU(), nn.Linear(SECOND_HEAD, len(DOMAINS)))
    for layer in (model.second[0], model.second[2]):
        layer.weight.data = torch.randn(layer.weight.shape, generator=draw) / layer.in_features**0.5
        layer.bias.data.zero_()
    model.steps = 0
    return model


def domain_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:1505.07818: cross-entropy of labels where they are known, and of domains, each a mean over its samples;
    the gradient of states by the latter times -lambda, of section 5.2.2. Each call is the next of 20 steps."""
    strength = REVERSAL * (2 / (1 + math.exp(-10 * model.steps / 20)) - 1)
    model.steps += 1
    ids = [torch.tensor([material.samples[member].ids]) for member in members]
    if hasattr(model, "bert"):
        states = torch.cat([model.bert(one).pooler_output for one in ids])
        scores = model.classifier(states)
    else:
        states = torch.cat([model.model(input_ids=one).last_hidden_state[:, -1] for one in ids])
        scores = model.score(states)
    turned = -strength * states + (1 + strength) * states.detach()
    domains = nn.functional.cross_entropy(model.second(turned), torch.tensor([domain_of(m) for m in members]))
    known = torch.tensor([has_label(member) for member in members])
    labels = torch.tensor([label_of(member) for member in members])
    return domains + nn.functional.cross_entropy(scores[known], labels[known])


def encoder_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """Cross-entropy of what transformers' classifier makes of each text alone."""
    logits = torch.cat([model(input_ids=torch.tensor([material.samples[m].ids])).logits for m in members])
    return nn.functional.cross_entropy(logits, torch.tensor([label_of(member) for member in members]))


def fresh_encoder(vocab_size: int, *, bare: bool = False) -> nn.Module:
    """A small BERT with a head for LABELS, or without."""
    fields = {name: value for name, value in ENCODER.items() if name != "model_type"}
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **fields, vocab_size=vocab_size, num_labels=len(LABELS))
    return (AutoModel if bare else AutoModelForSequenceClassification).from_config(config, dtype=torch.float32)


def nll_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """torch's cross-entropy of the step's targets."""
    return _of_targets(model, material, members, partial(nn.functional.cross_entropy, reduction="none"))


def adversarial(plain: Formula) -> Formula:
    """arXiv:1605.07725, equations 5 and 6: the loss, and the gradients of it and of the loss with each sample's
    embeddings moved by EPSILON along their gradient."""

    def loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
        embedding, shifts = model.get_input_embeddings(), {}
        for member in members:
            seen: list[Tensor] = []
            handle = embedding.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
            (gradient,) = torch.autograd.grad(plain(model, material, [member]), seen)
            handle.remove()
            shifts[tuple(material.samples[member].ids)] = EPSILON * gradient / gradient.norm()
        value = plain(model, material, members)
        handle = embedding.register_forward_hook(
            lambda module, inputs, output: output + shifts[tuple(inputs[0][0].tolist())]
        )
        moved = plain(model, material, members)
        handle.remove()
        return value + moved - moved.detach()

    return loss


def with_score(model: nn.Module, outputs: int) -> nn.Module:
    """With the head that an objective of its own begins with: normal, deviation 0.02, by the seed."""
    model.score = nn.Linear(64, outputs, bias=False)
    model.score.weight.data = torch.randn(outputs, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    return model


def make_matched(directory: Path, tokenizer: PreTrainedTokenizerFast, count: int = 60) -> Material:
    """Atoms of a query, the text that matches it, and up to two that do not; some share a query, or a text.

    `reference` holds the atom of each sample.
    """
    draw = random.Random(5)
    texts: list[tuple[str, ...]] = []
    for index in range(count):
        own = ["".join(draw.choice("abcde ") for _ in range(draw.randint(2, 14))) for _ in range(2 + index % 3)]
        if index % 4 == 1:
            own[1] = texts[-1][1]
        if index % 4 == 3:
            own[0] = texts[-1][0]
        texts.append(tuple(own))
    samples = []
    for own in texts:
        for text in own:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            samples.append(Sample([*ids, tokenizer.eos_token_id], [False, *[True] * len(ids)]))
    atoms = [number for number, own in enumerate(texts) for _ in own]
    table = _table(samples).append_column("atom", pa.array(atoms))
    return Material(samples, atoms, write_store(directory / "matched", table, ()))


def embedding_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:1807.03748, equation 4, over all texts of a step but copies of the right one, texts that are the query's
    own, and those that match an equal query."""
    whole = model if model.base_model is model else model.model
    by_atom: dict[int, list[int]] = {}
    for member in sorted(set(members)):
        by_atom.setdefault(material.reference[member], []).append(member)
    vectors = {}
    for member in members:
        states = whole(input_ids=torch.tensor([material.samples[member].ids])).last_hidden_state[0]
        vectors[member] = nn.functional.normalize(states.mean(0) if whole is model else states[-1], dim=0)
    text = {member: tuple(material.samples[member].ids) for member in members}
    costs = []
    for query, right, *_ in by_atom.values():
        others = [
            member
            for asked, matching, *wrong in by_atom.values()
            for member in (matching, *wrong)
            if text[member] not in (text[right], text[query])
            and not (member == matching and text[asked] == text[query])
        ]
        similar = torch.stack([vectors[query] @ vectors[member] for member in (right, *others)])
        costs.append(-torch.log_softmax(similar / HEAT, 0)[0])
    return torch.stack(costs).mean()


def make_judged(directory: Path, pairs: Material) -> Material:
    """Of the samples of pairs: 2i is a judged answer, 2i + 1 another to its prompt; every fifth stands alone.

    Sample ids are those of the answers; `reference` holds what the pairs' reference says.
    """
    kept = [index for index in range(len(pairs.samples)) if index % 2 == 0 or (index // 2) % 5]
    wanted = [float(is_wanted(index // 2)) for index in kept]
    reference = [pairs.reference[index] for index in kept]
    table = _table(pairs.samples).take(kept).append_column("atom", pa.array([index // 2 for index in kept]))
    table = table.append_column(WANTED.name, pa.array(wanted, pa.float32()))
    table = table.append_column(REFERENCE_LOG_PROB.name, pa.array(reference, pa.float32()))
    location = write_store(directory / "judged", table, (WANTED, REFERENCE_LOG_PROB))
    return Material(pairs.samples, pairs.reference, location)


def is_wanted(answer: int) -> bool:
    """What its label says."""
    return answer % 3 != 0


def judged_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2402.01306, equations 7 and 8, over the answers of a step; the drift is of all its mismatched ones."""
    gains = {member: material.samples[member].answer(model) - material.reference[member] for member in members}
    others = [gain.detach() for member, gain in gains.items() if member % 2]
    drift = torch.stack(others).mean().clamp(min=0)
    losses = []
    for member, gain in gains.items():
        if member % 2 == 0:
            value = torch.sigmoid(BETA * (gain - drift if is_wanted(member // 2) else drift - gain))
            losses.append((WANTED_WEIGHT if is_wanted(member // 2) else 1.0) * (1 - value))
    return torch.stack(losses).mean()


def make_guarded(
    directory: Path,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[tuple[str, str]],
    fields: tuple[Field, Field] = reference_top_k(TOP_K),
    temperature: float = 1.0,
) -> Material:
    """Samples with the likeliest tokens of another model, at a temperature, at every place."""
    samples = [Sample(*tokens_and_targets(tokenizer, *text)) for text in texts]
    other = fresh_model(CONFIG, len(tokenizer), seed=11)
    with torch.no_grad():
        reference = [torch.log_softmax(sample.log_probs(other) / temperature, -1).topk(TOP_K) for sample in samples]
    first = [0] * TOP_K  # nothing predicts the first token
    table = _table(samples)
    for field, columns in zip(fields, ([t.indices for t in reference], [t.values for t in reference]), strict=True):
        kind = pa.int32() if field.dtype == "<i4" else pa.float32()
        lists = [[*first, *column.flatten().tolist()] for column in columns]
        table = table.append_column(field.name, pa.array(lists, pa.list_(kind)))
    return Material(samples, reference, write_store(directory / fields[0].name, table, fields))


def save_teacher(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The other model of make_guarded, as files."""
    fresh_model(CONFIG, len(tokenizer), seed=11).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _table(samples: Sequence[Sample]) -> pa.Table:
    return pa.table(
        {
            "sample_id": pa.array(range(len(samples)), pa.int64()),
            "weight": pa.array([1.0] * len(samples), pa.float32()),
            "input_ids": pa.array([sample.ids for sample in samples], pa.list_(pa.int32())),
            "target": pa.array([list(map(int, sample.target)) for sample in samples], pa.list_(pa.uint8())),
        }
    )


def preference_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2305.18290, equation 7, over the pairs of a step."""
    losses = []
    for pair in sorted({member // 2 for member in members}):
        better, worse = (
            material.samples[member].answer(model) - material.reference[member] for member in (2 * pair, 2 * pair + 1)
        )
        losses.append(-torch.log(torch.sigmoid(BETA * (better - worse))))
    return torch.stack(losses).mean()


def _pairs(model: nn.Module, material: Material, members: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """([A, 2] log p of both answers, [A, 2] their tokens, [A, 2] log p by the reference) of a step's pairs."""
    pairs = sorted({member // 2 for member in members})
    samples = [material.samples[index] for pair in pairs for index in (2 * pair, 2 * pair + 1)]
    log_p = torch.stack([sample.answer(model) for sample in samples]).view(-1, 2)
    lengths = torch.tensor([float(sum(sample.target[1:])) for sample in samples]).view(-1, 2)
    known = [material.reference[index] for pair in pairs for index in (2 * pair, 2 * pair + 1)]
    return log_p, lengths, torch.tensor(known).view(-1, 2)


def robust_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2403.00409, equation 11, and SFT_WEIGHT x the cross-entropy of the preferred answers."""
    log_p, lengths, known = _pairs(model, material, members)
    margin = BETA * ((log_p - known)[:, 0] - (log_p - known)[:, 1])
    right, wrong = torch.log(torch.sigmoid(margin)), torch.log(torch.sigmoid(-margin))
    costs = -((1 - SMOOTHING) * right - SMOOTHING * wrong) / (1 - 2 * SMOOTHING)
    return costs.mean() - SFT_WEIGHT * log_p[:, 0].sum() / lengths[:, 0].sum()


def contrastive_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2401.08417, equation 5, with labels smoothed."""
    log_p, lengths, _ = _pairs(model, material, members)
    margin = BETA * (log_p[:, 0] - log_p[:, 1])
    right, wrong = torch.log(torch.sigmoid(margin)), torch.log(torch.sigmoid(-margin))
    return -((1 - SMOOTHING) * right + SMOOTHING * wrong).mean() - log_p[:, 0].sum() / lengths[:, 0].sum()


def simple_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2405.14734, equation 6."""
    log_p, lengths, _ = _pairs(model, material, members)
    means = log_p / lengths
    return -torch.log(torch.sigmoid(2.0 * means[:, 0] - 2.0 * means[:, 1] - GAMMA)).mean()


def odds_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2403.07691, equations 4 to 7."""
    log_p, lengths, _ = _pairs(model, material, members)
    p = (log_p / lengths).exp()
    odds = p / (1 - p)
    ratio = -torch.log(torch.sigmoid(torch.log(odds[:, 0] / odds[:, 1])))
    return BETA * ratio.mean() - log_p[:, 0].sum() / lengths[:, 0].sum()


def guarded_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """Cross-entropy a target + KL_WEIGHT x KL(reference || model) a token, over K tokens and one for all others."""
    nll, divergence, targets, tokens = torch.zeros(()), torch.zeros(()), 0, 0
    for member in members:
        sample, known = material.samples[member], material.reference[member]
        log_probs = sample.log_probs(model)
        ours = log_probs.gather(-1, known.indices).exp()
        theirs = known.values.exp()
        ours = torch.cat([ours, 1 - ours.sum(-1, keepdim=True)], -1)
        theirs = torch.cat([theirs, 1 - theirs.sum(-1, keepdim=True)], -1)
        divergence = divergence + (theirs * (theirs / ours).log()).sum()
        nll = nll - sample.answer(model)
        targets, tokens = targets + sum(sample.target[1:]), tokens + len(sample.ids)
    return nll / targets + KL_WEIGHT * divergence / tokens


def _of_targets(
    model: nn.Module, material: Material, members: Sequence[int], cost: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Mean over a step's target tokens of cost([N, V] log p, [N] targets) -> [N]."""
    costs = []
    for member in members:
        sample = material.samples[member]
        places = torch.tensor(sample.target[1:])
        costs.append(cost(sample.log_probs(model)[places], torch.tensor(sample.ids[1:])[places]))
    return torch.cat(costs).mean()


def smooth_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """torch's own label smoothing."""

    def cost(log_probs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(log_probs, targets, label_smoothing=SMOOTHING, reduction="none")

    return _of_targets(model, material, members, cost)


def dynamic_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2508.05629, equation 9, and KL_WEIGHT x the divergence a token."""

    def dynamic(log_probs: Tensor, targets: Tensor) -> Tensor:
        chosen = log_probs.gather(-1, targets[:, None])[:, 0]
        return -chosen.exp().detach() * chosen

    def plain(log_probs: Tensor, targets: Tensor) -> Tensor:
        return -log_probs.gather(-1, targets[:, None])[:, 0]

    divergence = guarded_loss(model, material, members) - _of_targets(model, material, members, plain)
    return _of_targets(model, material, members, dynamic) + divergence


def entropy_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """arXiv:2601.02151: cross-entropy x (entropy of the 6 likeliest tokens / log 6)."""

    def cost(log_probs: Tensor, targets: Tensor) -> Tensor:
        top = log_probs.detach().exp().topk(6, -1).values
        top = top / top.sum(-1, keepdim=True)
        share = -(top * top.log()).sum(-1) / torch.log(torch.tensor(6.0))
        return -log_probs.gather(-1, targets[:, None])[:, 0] * share

    return _of_targets(model, material, members, cost)


def distill_loss(model: nn.Module, material: Material, members: Sequence[int]) -> Tensor:
    """SHARE x TEMPERATURE^2 x JS(teacher, student) + (1 - SHARE) x cross-entropy, both a target."""
    costs, nlls = [], []
    for member in members:
        sample, known = material.samples[member], material.reference[member]
        places = torch.tensor(sample.target[1:])
        log_probs = sample.log_probs(model)
        nlls.append(-log_probs.gather(-1, torch.tensor(sample.ids[1:])[:, None])[:, 0][places])
        ours = torch.softmax(log_probs / TEMPERATURE, -1).gather(-1, known.indices)
        p, q = (torch.cat([one, 1 - one.sum(-1, keepdim=True)], -1) for one in (known.values.exp(), ours))
        middle = (p + q) / 2
        costs.append((((p * (p / middle).log()).sum(-1) + (q * (q / middle).log()).sum(-1)) / 2)[places])
    return SHARE * TEMPERATURE**2 * torch.cat(costs).mean() + (1 - SHARE) * torch.cat(nlls).mean()


def by_formula(
    loss: Callable[[nn.Module, Material, Sequence[int]], Tensor],
    material: Material,
    model: nn.Module,
    steps: Sequence[Sequence[int]],
) -> tuple[list[float], list[float]]:
    """(loss, norm) of each step, with the optimizer of material.recipe_fields."""
    trained = [p for p in model.parameters() if p.requires_grad]
    second = {p for name, p in model.named_parameters() if name.startswith("second.")}
    groups = [
        {
            "params": [p for p in trained if (p.ndim > 1) == decays and (p in second) == is_second],
            "weight_decay": 0.1 if decays else 0.0,
            "lr": 3e-3 * (SECOND_RATE if is_second else 1),
        }
        for decays in (True, False)
        for is_second in (True, False)
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    losses, norms = [], []
    for members in steps:
        value = loss(model, material, members)
        optimizer.zero_grad()
        value.backward()
        norms.append(float(nn.utils.clip_grad_norm_(trained, 1.0)))
        optimizer.step()
        losses.append(value.item())
    return losses, norms
