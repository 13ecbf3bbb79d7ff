"""BERTScore against bert-score 0.3.13: values that it gave, and, of real texts (marker `shared`), the package itself.

The package is no dependency: `pip install --target DIR --no-deps bert-score matplotlib contourpy cycler fonttools
kiwisolver pyparsing`, and PYTHONPATH=platform:DIR, for the tests of shared data.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import TYPES, write_encoder
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from raysft.errors import ModelError, RecipeError
from raysft.evaluate import bertscore
from raysft.evaluate.bertscore import BertScorer, check_encoder_at
from raysft.evaluate.scorers import scored
from raysft.metrics import METRICS
from raysft.metrics.base import Answer
from raysft.metrics.estimate import compare, estimate
from raysft.recipe.sections.evaluate import BertscoreSection

PAIRS = [
    ("the river trains model", "the model is a river"),
    ("Running, nearly there", "the model runs near there"),
    ("今天天气很好。", "今天天气非常好，我们去公园。"),
    ("我们去散步", "模型训练数据"),
    ("a", "the train station is on the river, in the old town, and so are its trains"),
    ("天", "天"),
    ("GPU 12 模型", "模型 3.5"),
    ("one two three four five six seven", "seven six five four three two one"),
]
PLAIN = [
    *((0.8964224, 0.7893551, 0.8394887), (0.9312211, 0.9680748, 0.9492904), (0.9396522, 0.9768804, 0.9579048)),
    *((0.3540156, 0.2767446, 0.310647), (0.9499578, 0.7132195, 0.8147399), (0.9999999, 0.9999999, 0.9999999)),
    *((0.9515285, 0.5972818, 0.7338932), (0.963962, 0.9790698, 0.9714572)),
]
"""Precision, recall and F1 of the pairs by bert_score.score(num_layers=2) with the small BERT of encoders.py."""
BY_IDF = [
    *((0.8895339, 0.7915326, 0.8376767), (0.9338564, 0.967455, 0.9503588), (0.943409, 0.9765854, 0.9597106)),
    *((0.3621422, 0.275569, 0.3129792), (0.9499578, 0.7049026, 0.809286), (0.9999999, 0.9999999, 0.9999999)),
    *((0.9538149, 0.6103504, 0.7443731), (0.9553741, 0.9819813, 0.968495)),
]
"""The same with idf=True."""
ANSWERS = [Answer(f"q{number}", said, wanted) for number, (said, wanted) in enumerate(PAIRS)]
REFERENCES = [wanted for _, wanted in PAIRS]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_encoder(tmp_path_factory.mktemp("encoder") / "tiny"))


def loaded(location: str | Path, layer: int | None = 2, *, idf: bool = False) -> BertScorer:
    return BertScorer.load(BertscoreSection(model=str(location), layer=layer, idf=idf))


@pytest.mark.parametrize(("idf", "expected"), [(False, PLAIN), (True, BY_IDF)], ids=["plain", "idf"])
def test_numbers_are_those_of_bert_score(encoder: str, idf: bool, expected: list[tuple[float, ...]]) -> None:
    found = loaded(encoder, idf=idf).score(ANSWERS, REFERENCES)
    for score, values in zip(found, expected, strict=True):
        assert score.numbers[:3] == pytest.approx(values, abs=1e-6)
    assert [score.numbers[4] for score in found] == [0, 0, 0, 0, 1, 0, 0, 0]  # one reference is too long


def by_hand(location: Path, layer: int, said: str, wanted: str) -> list[float]:
    """From the whole model's hidden states, token by token, in double precision."""
    model: Any = AutoModel.from_pretrained(location, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(location)
    texts = []
    for text in (said, wanted):
        ids = tokenizer(text, truncation=True, max_length=38)["input_ids"]
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0].double()
        texts.append(
            [
                (state / math.sqrt(float(state @ state)), one > 3 or one == 1)
                for state, one in zip(states, ids, strict=True)
            ]
        )
    means = []
    for these, others in (texts, texts[::-1]):
        best = [max(float(a @ b) for b, _ in others) for a, counts in these if counts]
        means.append(sum(best) / len(best))
    return [*means, 2 * means[0] * means[1] / sum(means)]


@pytest.mark.parametrize("model_type", [one for one in TYPES if one != "modernbert"])
def test_every_kind_of_encoder_is_read_at_its_layer(tmp_path: Path, model_type: str) -> None:
    location = write_encoder(tmp_path / model_type, model_type)
    scorer = loaded(location, 2)
    for said, wanted in PAIRS[:4]:
        assert scorer.compare(said, wanted)[:3] == pytest.approx(by_hand(location, 2, said, wanted), abs=1e-6)


def test_the_last_norm_of_an_encoder_stays(tmp_path: Path) -> None:
    """ModernBERT's: bert-score keeps it above the layer that is chosen. Value: bert_score.score, the pair alone."""
    scorer = loaded(write_encoder(tmp_path / "modern", "modernbert"), 2)
    assert scorer.compare(*PAIRS[0])[:3] == pytest.approx((0.5961581, 0.6108344, 0.6034071), abs=1e-6)


def test_an_answers_numbers_depend_on_it_alone(encoder: str) -> None:
    scorer = loaded(encoder)
    whole = scorer.score(ANSWERS, REFERENCES)
    assert [scorer.score([one], REFERENCES)[0] for one in reversed(ANSWERS)] == whole[::-1]
    assert loaded(encoder).score(ANSWERS, REFERENCES) == whole


@pytest.mark.parametrize("texts", [("", "a river"), ("a river", ""), ("  \n", "x"), ("", "")])
def test_nothing_is_worth_nothing(encoder: str, texts: tuple[str, str]) -> None:
    assert loaded(encoder).compare(*texts)[:4] == (0, 0, 0, 1)


def test_odd_texts_have_finite_numbers(encoder: str) -> None:
    scorer = loaded(encoder, idf=True)
    texts = ["\x00", "\u202e?!", "🙂 ½ ﷽", "word " * 500, "天" * 500, "[SEP] [CLS]"]
    found = scorer.score([Answer("q", one, "river") for one in texts], ["river", "天"])
    assert all(math.isfinite(number) for score in found for number in score.numbers)
    assert [score.numbers[4] for score in found] == [0, 0, 0, 1, 1, 0]


def test_what_is_cut_and_what_is_unknown_are_told(encoder: str) -> None:
    answers = scored(
        [Answer("q", "the river " * 30, "the river"), Answer("q", "½½ the", "the")], {"bertscore": loaded(encoder)}
    )
    found = estimate(METRICS["bertscore"], answers)
    assert found.details["cut_texts"] == 1
    assert found.details["unknown_tokens"] == pytest.approx(1 / (36 + 2 + 2 + 1), abs=0.03)
    assert re.match(r"tiny@[0-9a-f]{8}, layer 2 of 3, no idf; precision .*; 1 of 4 texts cut", found.how)
    assert "doubt" not in found.details
    answers = scored([Answer("q", "½ ½", "¾ ¾")], {"bertscore": loaded(encoder)})
    assert "100% of the tokens" in estimate(METRICS["bertscore"], answers).details["doubt"]


def test_positions_are_counted_as_the_type_does(tmp_path: Path) -> None:
    """A tokenizer that knows no limit; RoBERTa's first position has the number after the padding token's."""
    for model_type, positions in (("roberta", 38), ("bert", 40), ("modernbert", 40)):
        location = write_encoder(tmp_path / model_type, model_type, longest=10**30)
        found = loaded(location).compare("a " * 99, "b " * 36)
        assert found.tokens == positions - 2 + 36
        assert found.cut == 1


def test_the_default_layer_lies_three_quarters_up(tmp_path: Path) -> None:
    for layers, layer in ((3, 3), (4, 3), (6, 5), (12, 9)):
        location = write_encoder(tmp_path / str(layers), num_hidden_layers=layers)
        assert f"layer {layer} of {layers}," in loaded(location, None).by


def test_the_value_is_the_mean_f1_with_an_interval_and_a_test(encoder: str) -> None:
    scorers = {"bertscore": loaded(encoder)}
    first = scored(ANSWERS, scorers)
    found = estimate(METRICS["bertscore"], first)
    assert found.value == pytest.approx(sum(f1 for _, _, f1 in PLAIN) / 8, abs=1e-6)
    assert found.details["precision"] == pytest.approx(sum(p for p, _, _ in PLAIN) / 8, abs=1e-6)
    assert found.details["recall"] == pytest.approx(sum(r for _, r, _ in PLAIN) / 8, abs=1e-6)
    assert found.low is not None
    assert found.low < found.value < (found.high or 0)
    second = scored([Answer(one.prompt, one.reference, one.reference) for one in ANSWERS], scorers)
    change = compare(METRICS["bertscore"], first, second)
    assert change is not None
    assert change.difference == pytest.approx(1 - found.value, abs=1e-6)


def test_what_is_no_encoder_is_refused(tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**fields: Any) -> str:
        with pytest.raises((ModelError, RecipeError)) as caught:
            check_encoder_at(BertscoreSection(**fields))
        return str(caught.value)

    assert "no such directory" in refusal(model=str(tmp_path / "nothing"))
    assert "without config.json" in refusal(model=str(tmp_path))
    assert "tiny?" in refusal(model=encoder[:-1])  # did you mean
    assert "1 to 3" in refusal(model=encoder, layer=4)
    for name, text in (("llama", '{"model_type": "llama"}'), ("none", '{"model_type": "xyz"}'), ("torn", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
        refusal(model=str(tmp_path / name))
    pickled = write_encoder(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "pickled weights are never loaded" in refusal(model=str(pickled))
    monkeypatch.setattr(bertscore, "PACKAGE", "no_such_package_of_an_encoder")
    assert "pip install 'raysft[bertscore]'" in refusal()


def test_weights_that_are_missing_are_no_random_numbers(tmp_path: Path) -> None:
    location = write_encoder(tmp_path / "holes")
    weights = load_file(location / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, location / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        loaded(location)
    assert "encoder.layer.1.output.dense.weight" in str(caught.value)
    (location / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be loaded"):
        loaded(location)


@pytest.mark.shared
@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_200_real_pairs_are_scored_as_by_bert_score(shared_data: Path, language: str) -> None:
    package = pytest.importorskip("bert_score", reason="a development reference: see the module's docstring")
    location = bertscore.encoder_location(BertscoreSection())
    records = json.loads((shared_data / f"alpaca_{language}_demo.json").read_text(encoding="utf-8"))
    texts = [one["output"].strip() for one in records if 0 < len(one["output"].strip()) < 300][:200]
    answers = [
        Answer("q", text[:9] + text[len(text) // 3 :] if i % 9 else text, text) for i, text in enumerate(texts)
    ]
    assert len(answers) == 200
    for idf in (False, True):
        expected = package.score(
            [one.text for one in answers],
            [one.reference for one in answers],
            model_type=location, num_layers=5, idf=idf, device="cpu", nthreads=0,
        )  # fmt: skip
        found = loaded(location, 5, idf=idf).score(answers, [one.reference for one in answers])
        for place, values in enumerate(expected):
            assert [score.numbers[place] for score in found] == pytest.approx(values.tolist(), abs=1e-6)
