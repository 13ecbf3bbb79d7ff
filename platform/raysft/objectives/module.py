"""The module that an engine trains: a model and its objective in one forward. The table of objectives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from raysft.model.decoder import task_head
from raysft.model.encoder import head_of_encoder, is_bare, text_scores, text_states
from raysft.model.fast.loss import output_head
from raysft.model.fast.loss_head import LossHead
from raysft.model.fast.ulysses import SequenceGroup, hidden_part
from raysft.model.methods import Forward, PlainForward, StepActs, base_model
from raysft.model.outline import Unread
from raysft.objectives import classify, contrastive, cpo, dft, distill, dpo, eaft, kto, orpo, reward, sft, simpo
from raysft.objectives.adversary import Adversary
from raysft.objectives.batch import DeviceBatch
from raysft.objectives.known import Numbers
from raysft.objectives.noise import EmbeddingNoise
from raysft.objectives.objective import Loss, Objective
from raysft.objectives.view import View
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.objective import ObjectiveSection

logger = logging.getLogger(__name__)

OBJECTIVES: Mapping[str, Callable[[ObjectiveSection], Objective]] = {
    "sft": sft.make,
    "dft": dft.make,
    "eaft": eaft.make,
    "distill": distill.make,
    "dpo": dpo.make,
    "cpo": cpo.make,
    "simpo": simpo.make,
    "orpo": orpo.make,
    "kto": kto.make,
    "reward": reward.make,
    "classify": classify.make,
    "contrastive": contrastive.make,
}
"""{objective.kind: what makes it of its section}."""


def make_objective(recipe: Recipe) -> Objective:
    """The objective that a recipe names."""
    return OBJECTIVES[recipe.objective.kind](recipe.objective)


class ObjectiveModule(nn.Module):
    """forward(*batch.flat()) -> its Loss."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        acts: StepActs | None = None,
        forward: Forward | None = None,
        noise: float = 0.0,
        epsilon: float = 0.0,
    ) -> None:
        """acts: what the method does in each step; the engine calls it. forward: of the method; None: the model's.
        noise: alpha of noise.py; epsilon: of adversary.py; 0: none."""
        super().__init__()
        head = output_head(base_model(model)).module
        if not isinstance(head, LossHead) and head_of_encoder(base_model(model)) is None:
            logger.warning("the loss of an LM head of type %s is computed twice (slower)", type(head).__name__)
        self.model = model
        self.objective = objective
        self.acts = acts
        self.rows = PlainForward(base_model(model)) if forward is None else forward
        """What turns rows into hidden states, unless ranks share them."""
        embedding = base_model(model).get_input_embeddings()
        self._noise = EmbeddingNoise(embedding, noise) if noise else None
        self._adversary = Adversary(embedding, epsilon) if epsilon else None
        self.auxiliary: nn.Module | None = None
        """The objective's second head (model/heads.py)."""
        self.total_steps = 0
        """Steps of the run, by which an objective schedules; 0: it stays at its beginning."""
        self.sequence: SequenceGroup | None = None
        """Ranks that share the rows; then the sums are of this rank's part of them."""
        self.unread: Unread | None = None
        """Parameters that the engine is to read; None: all are there."""
        self.ask: Callable[[DeviceBatch], Mapping[str, Tensor]] | None = None
        """What finds the objective's live columns of a micro-batch; None: it has none."""
        self.kept: dict[str, Tensor] = {}
        """{`weight:<HF name>`: fp32} of what is not trained and no file has: a commit holds it, too."""

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows."""
        return int(base_model(self.model).config.get_text_config().vocab_size)

    def done(self, step: int) -> float:
        """The share of the run that is done before a 0-based step."""
        return step / self.total_steps if self.total_steps else 0.0

    def forward(self, *parts: Tensor | Numbers) -> Loss:
        """Loss of one micro-batch. Tensors one by one: DeepSpeed looks at each, and into nothing else."""
        batch = DeviceBatch.of_flat(parts, self.objective.batch_columns)
        if self._adversary is None:
            return self._loss(batch)
        count = len(batch.atom_of)
        return self._adversary.learn(lambda: self._loss(batch), self.objective.terms, batch.segment_of, count)

    def _loss(self, batch: DeviceBatch) -> Loss:
        model, sequence = base_model(self.model), self.sequence
        if self._noise is not None:
            self._noise.expect(batch.segment_of, len(batch.atom_of))
        if is_bare(model):
            states = text_states(model, batch.input_ids, batch.segment_of)
            return self.objective.loss(View(states, output_head(model), batch, is_encoder=True), batch)
        if head_of_encoder(model) is not None:
            scores, states = text_scores(model, batch.input_ids, batch.segment_of, len(batch.atom_of))
            head, own = output_head(model), self.auxiliary
            view = View(scores, head, batch, given=scores, pooled_by_head=states, auxiliary=own)
            return self.objective.loss(view, batch)
        if sequence is None:
            hidden = self.rows.hidden_states(batch.input_ids, batch.position_ids, batch.known.borders)
        else:
            hidden = hidden_part(model, batch.input_ids, batch.position_ids, sequence, batch.known.borders)
            batch = batch.own(sequence, self.objective.batch_columns)
        view = View(hidden, output_head(model), batch, sequence, task_head(model), auxiliary=self.auxiliary)
        return self.objective.loss(view, batch)
