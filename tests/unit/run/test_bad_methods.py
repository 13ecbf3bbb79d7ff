"""Methods and objectives that cannot be, told within a second and before anything is started, in four parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from exports import write_base
from fakes import LLAMA, make_recipe, make_tokenizer
from families import GPT2, TIED, tiny_fields
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from raysft.errors import RaysftError
from raysft.recipe.checks import check_recipe
from raysft.run.run import check_before_ray

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CLASSIFY = {"kind": "classify", "labels": ["a", "b"]}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{name: directory of a model and its tokenizer}."""
    root = tmp_path_factory.mktemp("bases")
    mixtral = {**tiny_fields("mixtral"), "vocab_size": 264}
    made = {
        name: write_base(root / name, fields)
        for name, fields in {"llama": LLAMA, "gpt2": GPT2, "tied": TIED, "strangers": LLAMA}.items()
    }
    for name in ("mixtral", "bert", "small", "bart"):
        made[name] = root / name
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**mixtral)).save_pretrained(made["mixtral"])
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**LLAMA, vocab_size=200)).save_pretrained(made["small"])
    AutoModel.from_config(AutoConfig.for_model("bert", **SIZES, vocab_size=264)).save_pretrained(made["bert"])
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = BartConfig(vocab_size=264, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes)
    BartForConditionalGeneration(bart).save_pretrained(made["bart"])
    for name in made:
        make_tokenizer().save_pretrained(made[name])
    letters = Tokenizer(models.WordLevel({letter: index for index, letter in enumerate("zyxwv?")}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="?").save_pretrained(made["strangers"])
    return made


def checked(fields: dict[str, Any]) -> list[str]:
    recipe = make_recipe(**fields)
    check_recipe(recipe)
    return check_before_ray(recipe)


def told(bases: dict[str, Path], base: str, **sections: Any) -> RaysftError:
    """What `raysft check` says of a recipe on a base."""
    fields = {"train": {"max_steps": 20}, **sections}
    fields["model"] = {"source": str(bases[base]), "config": None, "tokenizer": None}
    with pytest.raises(RaysftError) as caught:
        checked(fields)
    error = caught.value
    assert error.got
    assert error.expected
    assert error.fix
    assert error.exit_code
    return error


def tuner(name: str, **options: float) -> dict[str, Any]:
    return {"kind": "tuner", "tuner": name, "options": options}


METHODS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a rank of its own above the layer": (
        *("llama", {"kind": "lora", "rank": 4, "ranks": {"k_proj": 200}}),
        *("rank 200, model.layers.0.self_attn.k_proj", "method.ranks: {k_proj: 16}"),
    ),
    "a rank that nothing has": (
        *("llama", {"kind": "lora", "rank": 4, "ranks": {"k_porj": 2}}),
        *("k_porj", "method.ranks"),
    ),
    "a name beside all-linear": (
        *("llama", {"kind": "lora", "target_modules": ["all-linear", "q_proj"]}),
        *("all-linear stands alone", "target_modules"),
    ),
    "experts under DoRA": ("mixtral", {"kind": "dora"}, "experts.down_proj (mixtral)", "method.kind: lora"),
    "rows for a beginning that reads none": (
        *("llama", {"kind": "lora", "init_rows": 3}),
        *("init_rows: 3", "method.init: eva"),
    ),
    "a width of no network": (
        *("llama", {"kind": "prefix", "hidden_size": 8}),
        *("hidden_size: 8", "method.projection: true"),
    ),
    "layers of no LSTM": ("llama", {"kind": "p_tuning", "layers": 3}, "layers: 3", "method.encoder: lstm"),
    "dropout between one layer": (
        *("llama", {"kind": "p_tuning", "encoder": "lstm", "layers": 1, "dropout": 0.1}),
        *("dropout: 0.1", "two layers"),
    ),
    "all layers for IA3": ("llama", {"kind": "ia3", "target_modules": "all-linear"}, "by name", "target_modules"),
    "names of another type": ("gpt2", {"kind": "ia3"}, "k_proj, v_proj, down_proj", "target_modules"),
    "no rank": ("llama", tuner("vera", r=0), "options.r: 0", "remove it"),
    "half a rank": ("llama", tuner("hra", r=2.5), "options.r: 2.5", "remove it"),
    "an adapter times nothing": ("llama", tuner("loha", alpha=0), "options.alpha: 0", "remove it"),
    "ranks that span all matrices": (
        "llama",
        tuner("vera", r=10_000_000),
        "no use for more than r ",
        "method.options",
    ),
    "more ranks than a layer": ("llama", tuner("loha", r=500), "no use for more than r 32", "method.options"),
    "blocks of one": ("llama", tuner("oft", oft_block_size=1), "0 of ", "method"),
    "layers of another kind": ("gpt2", tuner("loha", r=4), "c_attn, a Conv1D (gpt2)", "linear layers"),
    "an embedding": (
        *("llama", {**tuner("loha", r=4), "target_modules": ["embed_tokens"]}),
        *("embed_tokens, a Embedding", "linear layers"),
    ),
    "a reflection without its twin": ("llama", tuner("hra", r=3), "options.r: 3", "{r: 4}"),
}
"""{what is wrong: (base, method, said to be got, part of the fix)}."""


@pytest.mark.parametrize("case", METHODS)
def test_a_method_that_cannot_be(bases: dict[str, Path], case: str) -> None:
    base, method, got, fix = METHODS[case]
    error = told(bases, base, method=method)
    assert got in error.got
    assert fix in error.fix


NOT_SERVED = "peft loads it; vLLM does not: serve export/merged there"


@pytest.mark.parametrize(
    ("method", "export", "said"),
    [
        ({"kind": "lora", "rank": 4}, {}, "peft loads it; vLLM, too"),
        ({"kind": "lora", "rank": 4, "ranks": {"q_proj": 2}}, {}, NOT_SERVED),
        ({"kind": "lora", "rank": 4, "alphas": {"q_proj": 2}}, {}, NOT_SERVED),
        ({"kind": "dora", "rank": 4}, {}, NOT_SERVED),
        ({"kind": "dora", "rank": 4}, {"merged": False}, "peft loads it; vLLM does not: answer with transformers"),
        (
            {"kind": "bottleneck", "bottleneck_size": 4},
            {},
            "lines of its card load it; vLLM does not: answer with transformers",
        ),
        ({"kind": "full"}, {}, None),
    ],
)
def test_who_loads_an_adapter_is_said_before_training(
    bases: dict[str, Path], method: dict[str, Any], export: dict[str, Any], said: str | None
) -> None:
    model = {"source": str(bases["llama"]), "config": None, "tokenizer": None}
    lines = checked({"model": model, "method": method, "export": export, "train": {"max_steps": 20}})
    assert [line for line in lines if line.startswith("adapter  ")] == ([f"adapter      {said}"] if said else [])


def test_what_is_offered_instead_is_there(bases: dict[str, Path]) -> None:
    error = told(bases, "gpt2", method={"kind": "ia3"})
    assert error.expected == "some of c_attn, c_fc, c_proj, lm_head"
    after_some = told(bases, "llama", method={"kind": "lora", "target_modules": ["q_proj", "input_layernorm"]})
    assert after_some.expected.startswith("all-linear, or some of down_proj, gate_proj, k_proj, lm_head, o_proj, q_")
    nearly = told(bases, "llama", method={"kind": "freeze", "parameters": ["*NORM*"]})
    assert nearly.expected.startswith("a name, or a pattern, of model.layers.*.input_layernorm.weight")


def test_an_lm_head_is_frozen_by_what_does_not_read_it_and_trained_where_it_is_shared(bases: dict[str, Path]) -> None:
    head = {"kind": "freeze", "layers": 0, "parameters": ["lm_head.*"]}
    assert "'lm_head.*'" in told(bases, "llama", method=head, objective=CLASSIFY).got
    fields = {"model": {"source": str(bases["tied"]), "config": None, "tokenizer": None}, "method": head}
    assert any(line.startswith("trained      8,448 of ") for line in check_before_ray(make_recipe(**fields)))


@pytest.mark.parametrize(
    ("teacher", "got"),
    [
        ("/nowhere", "no such directory"),
        ("run://nobody", "the run 'nobody' has no exported model"),
        ("bert", "an encoder writes no text"),
        ("bart", "a bart model"),
        ("small", "200 rows; the student's tokenizer needs 260"),
        ("strangers", "6 tokens; of the student's 260 it has 260 not"),
    ],
)
def test_a_teacher_that_cannot_be_asked(bases: dict[str, Path], tmp_path: Path, teacher: str, got: str) -> None:
    teachers = [str(bases["llama"]), str(bases.get(teacher, teacher))]
    error = told(bases, "llama", objective={"kind": "distill", "teachers": teachers}, storage=str(tmp_path))
    assert got in error.got
    assert "objective.teachers" in error.fix


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "distill", "teachers": "strangers", "teacher_top_k": 8},
        {"kind": "sft", "kl_weight": 0.1, "kl_top_k": 8},
    ],
)
def test_more_likeliest_tokens_than_there_are(bases: dict[str, Path], objective: dict[str, Any]) -> None:
    """Six letters and an end, told before data are prepared."""
    named = {"teachers": str(bases["strangers"])} if "teachers" in objective else {}
    error = told(bases, "strangers", objective={**objective, **named}, data={"template": "text"})
    assert "8 tokens of 6" in error.got


def test_a_model_with_an_encoder_and_a_decoder_is_refused_by_name(bases: dict[str, Path]) -> None:
    error = told(bases, "bart")
    assert error.got == "a bart model"
    assert "causal" in error.expected
