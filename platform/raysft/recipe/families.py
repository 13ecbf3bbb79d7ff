"""The one table of model types: names of a decoder's modules, and what can be cut. Pure.

A type that is not here trains as well: nothing is asked of it but transformers' own code. It is counted as a Llama
by the planner, and is cut neither into pipeline stages nor into tensor-parallel shards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class StageNames:
    """Attribute names in the module that loops over the layers; empty: it has none of these."""

    body: str = ""
    """Where that module is in the base model; empty: it is the base model."""
    layers: str = "layers"
    embedding: str = "embed_tokens"
    """With the scale that Gemma multiplies it by."""
    positions: str = ""
    """Learned positions, added to the embeddings."""
    embedding_dropout: str = ""
    project_in: str = ""
    """Linear layer between embedding and layers, where their widths differ."""
    norm: str = "norm"
    """After the last layer; OPT-350m has none."""
    project_out: str = ""


@dataclass(frozen=True)
class Family:
    """How a model type is built; the defaults are a Llama's."""

    norm: Literal["layer", "rms", "rms_fp32"] = "rms"
    """rms_fp32: multiplies with its weight in float32."""
    layer_norms: int = 2
    """Norms of one layer, as wide as the hidden states."""
    qk_norm: bool = False
    """Queries and keys have norms of their own."""
    gated: bool = True
    """Does the MLP multiply by a gate? Then it is three matrices, else two."""
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """Layers into attention. One name: queries, keys and values come out of one matrix."""
    out: str = "o_proj"
    """The layer out of attention."""
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    """Layers of the MLP, the one out of it last."""
    biases: frozenset[str] = frozenset()
    """Linear layers with a bias, whatever the config says."""
    learned_positions: int | None = None
    """Rows of the position embedding besides max_position_embeddings; None: rotary."""
    tied: bool = False
    """Do embedding and head share their weight when the config says nothing?"""
    parallel_residual: bool = False
    """Attention and MLP read the same residual, unless the config says otherwise."""
    keeps_fused_output: bool = False
    """Rotary makes new queries and keys, and the values keep the fused output until backward."""
    stage: StageNames | None = None
    """Where a pipeline cuts it; None: it does not."""
    shards: bool = False
    """May tensor parallelism cut it? All its linear layers are nn.Linear and cut at borders of heads."""
    sublayers: tuple[str, str] | None = ("self_attn.o_proj", "mlp.down_proj")
    """The linear layers out of attention and out of the MLP, within a layer of the model: what they give is added to
    the residual, where bottleneck adapters stand. None: no single ones (experts), or not known."""
    is_known: bool = True
    """False: the names above are not this type's own, only its gate is known."""


_LLAMA = Family(stage=StageNames(), shards=True)
_QKV = frozenset({"q_proj", "k_proj", "v_proj"})
_NEOX = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
_GPT2 = ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")
_WITHOUT_GATE = Family(gated=False, mlp=("up_proj", "down_proj"), sublayers=None, is_known=False)
_SUBLAYERS = {
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "codegen": ("attn.out_proj", "mlp.fc_out"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "gpt_bigcode": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neo": ("attn.attention.out_proj", "mlp.c_proj"),
    "gptj": ("attn.out_proj", "mlp.fc_out"),
    "mpt": ("attn.out_proj", "ffn.down_proj"),
    "phi": ("self_attn.dense", "mlp.fc2"),
    "starcoder2": ("self_attn.o_proj", "mlp.c_proj"),
    "xglm": ("self_attn.out_proj", "fc2"),
    **dict.fromkeys(
        ("bert", "camembert", "deberta", "deberta-v2", "electra", "roberta", "xlm-roberta"),
        ("attention.output.dense", "output.dense"),
    ),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    "mpnet": ("attention.attn.o", "output.dense"),
}
"""Types of which not much more is known, encoders among them."""

OTHER = Family(is_known=False)
"""A type that is not in the table: where its layers have other names than a Llama's, what needs them is refused."""

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": Family(sublayers=None),
    "qwen2": replace(_LLAMA, biases=_QKV),
    "qwen3": replace(_LLAMA, qk_norm=True),
    "qwen3_moe": Family(qk_norm=True, sublayers=None),
    "gemma": replace(_LLAMA, norm="rms_fp32", tied=True),
    "gemma2": replace(_LLAMA, norm="rms_fp32", layer_norms=4, tied=True),
    "gemma3_text": replace(_LLAMA, norm="rms_fp32", layer_norms=4, qk_norm=True, tied=True),
    "phi3": Family(qkv=("qkv_proj",), mlp=("gate_up_proj", "down_proj")),
    "gpt2": Family(
        norm="layer",
        gated=False,
        qkv=_GPT2[:1],
        out=_GPT2[1],
        mlp=_GPT2[2:],
        biases=frozenset(_GPT2),
        learned_positions=0,
        tied=True,
        sublayers=("attn.c_proj", "mlp.c_proj"),
        stage=StageNames(layers="h", embedding="wte", positions="wpe", embedding_dropout="drop", norm="ln_f"),
    ),
    "gpt_neox": Family(
        norm="layer",
        gated=False,
        qkv=_NEOX[:1],
        out=_NEOX[1],
        mlp=_NEOX[2:],
        biases=frozenset(_NEOX),
        parallel_residual=True,
        keeps_fused_output=True,
        sublayers=("attention.dense", "mlp.dense_4h_to_h"),
        stage=StageNames(embedding="embed_in", embedding_dropout="emb_dropout", norm="final_layer_norm"),
        shards=True,
    ),
    "opt": Family(
        norm="layer",
        gated=False,
        out="out_proj",
        mlp=("fc1", "fc2"),
        biases=frozenset({*_QKV, "out_proj", "fc1", "fc2"}),
        learned_positions=2,
        tied=True,
        sublayers=("self_attn.out_proj", "fc2"),
        stage=StageNames(
            body="decoder",
            positions="embed_positions",
            project_in="project_in",
            norm="final_layer_norm",
            project_out="project_out",
        ),
        shards=True,
    ),
    **{name: replace(_WITHOUT_GATE, sublayers=names) for name, names in _SUBLAYERS.items()},
}

CUT_INTO_STAGES = frozenset(name for name, family in FAMILIES.items() if family.stage is not None)
"""Model types that a pipeline takes."""

WITH_SUBLAYERS = frozenset(name for name, family in FAMILIES.items() if family.sublayers is not None)
"""Model types that bottleneck adapters can be put into."""

CUT_INTO_SHARDS = frozenset(name for name, family in FAMILIES.items() if family.shards)
"""Model types that tensor parallelism takes."""


def family_of(model_type: str) -> Family:
    """The family of a transformers model type; OTHER where the table has none."""
    return FAMILIES.get(model_type, OTHER)
