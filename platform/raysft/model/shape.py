"""config.json -> ModelShape: the linear layers and norms of a decoder, without building it.

A type that is not in recipe/families.py is taken for a Llama, and the planner says so.
"""

from __future__ import annotations

from typing import Any

from raysft.model.facts import first_size, load_config, optional_size, text_fields
from raysft.recipe.facts import Linear, ModelShape
from raysft.recipe.families import Family, family_of
from raysft.recipe.objective_traits import live_columns
from raysft.recipe.schema import Recipe
from raysft.recipe.teachers import teacher_recipes

_DROPOUT = ("resid_pdrop", "hidden_dropout", "dropout")
"""transformers' names of the dropout before the residual."""


def read_shape(recipe: Recipe) -> ModelShape:
    """The modules of the model that a recipe names. Raises ModelError."""
    config = load_config(recipe)
    text = text_fields(config)
    model_type = str(text.get("model_type") or config.model_type)
    kind = family_of(model_type)
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
        is_known=kind.is_known,
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
        parallel=kind.parallel_residual and bool(text.get("use_parallel_residual", True)),
        dropout=float(next((text[name] for name in _DROPOUT if text.get(name)), 0.0)),
        tied=kind.tied if tied is None else bool(tied),
        keeps_fused_output=kind.keeps_fused_output,
        teacher_parameters=_live_teachers(recipe),
    )


def _live_teachers(recipe: Recipe) -> int:
    """Their parameters. Raises ModelError."""
    teachers = teacher_recipes(recipe) if live_columns(recipe) else []
    return sum(read_shape(teacher).num_parameters for teacher in teachers)


def _attention(kind: Family, text: dict[str, Any], hidden: int, sizes: tuple[int, int]) -> list[Linear]:
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


def _mlp(kind: Family, text: dict[str, Any], hidden: int) -> list[Linear]:
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
