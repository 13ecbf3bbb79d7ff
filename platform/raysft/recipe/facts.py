"""What the arithmetic must know of a model, a cluster and a token store. Plain values; read by others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a model; read from config.json by model/facts.py."""

    model_type: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_tokens: int | None
    """Longest sequence its positions allow; None: no limit stated."""
    num_parameters: int
    """Weights that every token is multiplied with: without the input embedding, with the output head."""
    attention_size: int
    """Attention heads x size of a head."""
    num_heads: int
    """1 where it has none (Mamba): nothing to divide over ranks."""
    num_kv_heads: int
    same_factors_up_to: int | None = None
    """Tokens up to which rotary factors are the same whatever else is in the pass; None: always."""
    router_loss: float = 0.0
    """Weight of the loss for a mixture's router that the config asks for."""


@dataclass(frozen=True)
class Linear:
    """One linear layer of a decoder layer."""

    name: str
    """As method.target_modules calls it."""
    inputs: int
    outputs: int
    bias: bool
    split: Literal["column", "row"]
    """How tensor parallelism cuts it (Shoeybi et al. 2019, arXiv:1909.08053): its outputs or its inputs."""
    copies: int = 1
    """Experts that have one each."""
    active: int = 1
    """Experts a token goes to."""

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all copies."""
        return self.copies * self.outputs * (self.inputs + self.bias)


@dataclass(frozen=True)
class ModelShape:
    """The modules of a model, for the planner; read by model/shape.py."""

    model_type: str
    is_known: bool
    """False: a type without an entry in the table, taken for a Llama."""
    num_layers: int
    hidden_size: int
    vocab_size: int
    position_rows: int
    """Rows of a learned position embedding; 0: rotary."""
    num_heads: int
    num_kv_heads: int
    head_size: int
    linears: tuple[Linear, ...]
    """Linear layers of one decoder layer, in their order."""
    norms: tuple[int, ...]
    """Width of each norm of one layer, the norms of queries and keys included."""
    norm: Literal["layer", "rms", "rms_fp32"]
    """rms_fp32: multiplies with its weight in float32 (Gemma)."""
    activation: str
    """transformers' name of the activation."""
    is_gated: bool
    fused_qkv: bool
    parallel: bool
    """Attention and MLP read the same residual (GPT-NeoX)."""
    dropout: float
    """Share that is dropped of what attention and MLP add to the residual."""
    tied: bool
    """Input embedding and output head share their weight."""
    keeps_fused_output: bool = False
    """Rotary makes new queries and keys, and the values keep the fused output until backward (GPT-NeoX)."""
    teacher_parameters: int = 0
    """Parameters of the live teachers (objective.live), which each worker holds whole beside the model."""

    @property
    def norm_parameters(self) -> int:
        """Weights (and biases) of one layer's norms."""
        return sum(self.norms) * (2 if self.norm == "layer" else 1)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        return sum(linear.num_parameters for linear in self.linears) + self.norm_parameters

    @property
    def embedding_parameters(self) -> int:
        """Input embeddings: tokens, and positions where they are learned."""
        return self.hidden_size * (self.vocab_size + self.position_rows)

    @property
    def head_parameters(self) -> int:
        """Final norm and output head, as far as it is no other's."""
        final_norm = self.hidden_size * (2 if self.norm == "layer" else 1)
        return final_norm + (0 if self.tied else self.hidden_size * self.vocab_size)

    @property
    def num_parameters(self) -> int:
        """All of them, shared ones once."""
        return self.embedding_parameters + self.num_layers * self.layer_parameters + self.head_parameters


@dataclass(frozen=True)
class NodeFacts:
    """One Ray node's total resources."""

    cpus: float
    gpus: float
    memory_bytes: float = 0
    """Host memory that Ray has for tasks and workers."""
    accelerator: str | None = None
    """Ray's name of its GPUs (`H100`); None: it has none, or Ray does not know it."""


@dataclass(frozen=True)
class ClusterFacts:
    """The nodes that are alive."""

    nodes: tuple[NodeFacts, ...]


@dataclass(frozen=True)
class DataFacts:
    """Sizes of a training token store."""

    num_rows: int | None
    """None: streamed, so nobody knows yet."""
