"""config.json -> ModelShape: the linear layers and norms of a decoder, without building it.

Owns one table of model types. A type that is not in it is taken for a Llama, and the planner says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from raysft.model.facts import first_size, load_config, optional_size, text_fields
from raysft.recipe.facts import Linear, ModelShape
from raysft.recipe.schema import Recipe


@dataclass(frozen=True)
class _Kind:
    """How a model type differs from a Llama."""

    norm: Literal["layer", "rms", "rms_fp32"] = "rms"
    layer_norms: int = 2
    qk_norm: bool = False
    gated: bool = True
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    """One name: queries, keys and values come out of one matrix."""
    out: str = "o_proj"
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    biases: frozenset[str] = frozenset()
    """Linear layers with a bias, whatever the config says."""
    learned_positions: int | None = None
    """Rows besides max_position_embeddings; None: rotary."""
    tied: bool = False
    """When the config says nothing."""


_QKV = frozenset({"q_proj", "k_proj", "v_proj"})
_LLAMA = _Kind()
_KINDS = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2": _Kind(biases=_QKV),
    "qwen3": _Kind(qk_norm=True),
    "qwen3_moe": _Kind(qk_norm=True),
    "gemma": _Kind(norm="rms_fp32", tied=True),
    "gemma2": _Kind(norm="rms_fp32", layer_norms=4, tied=True),
    "gemma3_text": _Kind(norm="rms_fp32", layer_norms=4, qk_norm=True, tied=True),
    "phi3": _Kind(qkv=("qkv_proj",), mlp=("gate_up_proj", "down_proj")),
    "gpt2": _Kind(
        norm="layer",
        gated=False,
        qkv=("c_attn",),
        out="attn.c_proj",
        mlp=("c_fc", "mlp.c_proj"),
        biases=frozenset({"c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"}),
        learned_positions=0,
        tied=True,
    ),
    "gpt_neox": _Kind(
        norm="layer",
        gated=False,
        qkv=("query_key_value",),
        out="dense",
        mlp=("dense_h_to_4h", "dense_4h_to_h"),
        biases=frozenset({"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    ),
    "opt": _Kind(
        norm="layer",
        gated=False,
        out="out_proj",
        mlp=("fc1", "fc2"),
        biases=frozenset({*_QKV, "out_proj", "fc1", "fc2"}),
        learned_positions=2,
        tied=True,
    ),
}


_DROPOUT = ("resid_pdrop", "hidden_dropout", "dropout")
"""transformers' names of the dropout before the residual."""


def read_shape(recipe: Recipe) -> ModelShape:
    """The modules of the model that a recipe names. Raises ModelError."""
    config = load_config(recipe)
    text = text_fields(config)
    model_type = str(text.get("model_type") or config.model_type)
    kind = _KINDS.get(model_type, _LLAMA)
    hidden, heads = first_size(text, "hidden_size"), optional_size(text, "num_attention_heads") or 1
    grouped = kind.norm != "layer"  # GPT-2, GPT-NeoX and OPT know no groups of heads
    kv_heads = (grouped and optional_size(text, "num_key_value_heads")) or heads
    head_size = optional_size(text, "head_dim") or hidden // heads
    norms = (hidden,) * kind.layer_norms + ((head_size,) * 2 if kind.qk_norm else ())
    tied = text.get("tie_word_embeddings")
    activation = text.get("hidden_activation") or text.get("hidden_act") or text.get("activation_function")
    positions = 0
    if kind.learned_positions is not None:
        positions = kind.learned_positions + first_size(text, "max_position_embeddings")
    return ModelShape(
        model_type=model_type,
        is_known=model_type in _KINDS,
        num_layers=first_size(text, "num_hidden_layers"),
        hidden_size=hidden,
        vocab_size=first_size(text, "vocab_size"),
        position_rows=positions,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        linears=(
            *_attention(kind, text, hidden, (heads * head_size, kv_heads * head_size)),
            *_mlp(kind, text, hidden),
        ),
        norms=norms,
        norm=kind.norm,
        activation=str(activation or "silu"),
        is_gated=kind.gated,
        fused_qkv=len(kind.qkv) == 1,
        parallel=model_type == "gpt_neox" and bool(text.get("use_parallel_residual", True)),
        dropout=float(next((text[name] for name in _DROPOUT if text.get(name)), 0.0)),
        tied=kind.tied if tied is None else bool(tied),
    )


def _attention(kind: _Kind, text: dict[str, Any], hidden: int, sizes: tuple[int, int]) -> list[Linear]:
    """sizes: outputs of the queries, and of the keys and the values."""
    queries, keys = sizes
    always = bool(text.get("attention_bias")) and kind.norm != "layer"
    outputs = (queries + 2 * keys,) if len(kind.qkv) == 1 else (queries, keys, keys)
    return [
        *(
            Linear(name, hidden, size, always or name in kind.biases, "column")
            for name, size in zip(kind.qkv, outputs, strict=True)
        ),
        Linear(kind.out, queries, hidden, always or kind.out in kind.biases, "row"),
    ]


def _mlp(kind: _Kind, text: dict[str, Any], hidden: int) -> list[Linear]:
    """The dense MLP, or the experts and their router."""
    inner = optional_size(text, "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    experts = optional_size(text, "num_local_experts", "num_experts") or 1
    active = optional_size(text, "num_experts_per_tok") or 1
    if experts > 1:
        inner = optional_size(text, "moe_intermediate_size") or inner
    *into, out = kind.mlp
    width = 2 * inner if kind.gated and len(into) == 1 else inner
    always = bool(text.get("mlp_bias"))
    linears = [Linear(name, hidden, width, always or name in kind.biases, "column", experts, active) for name in into]
    linears.append(Linear(out, inner, hidden, always or out in kind.biases, "row", experts, active))
    return [*linears, *([Linear("gate", hidden, experts, False, "column")] if experts > 1 else [])]
