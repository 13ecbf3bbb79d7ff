"""Every metric against its reference implementation, pair by pair and over all pairs, in English and Chinese."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from answer_pairs import pairs
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from sacrebleu.metrics import BLEU, CHRF

from raysft.metrics import ALL, METRICS
from raysft.metrics.base import Answer
from raysft.metrics.estimate import estimate

LANGUAGES = ("en", "zh")
DATA = [pytest.param(f"{language} of shared data", marks=pytest.mark.shared) for language in LANGUAGES]


def characters(text: str) -> list[str]:
    """Chinese words as these tests have them: each Han character, and runs of other letters and digits."""
    return re.findall(
        r"[\u3007\u4e00-\u9fff]|[^\W_\u3007\u4e00-\u9fff]+", unicodedata.normalize("NFKC", text).lower()
    )


class Characters(Tokenizer):  # type: ignore[misc]
    """For rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        return characters(text)


@pytest.fixture(params=[*LANGUAGES, *DATA])
def answers(request: pytest.FixtureRequest) -> list[Answer]:
    language = request.param[:2]
    if request.param in LANGUAGES:
        return pairs(language)
    folder: Path = request.getfixturevalue("shared_data")
    records = json.loads((folder / f"alpaca_{language}_demo.json").read_text(encoding="utf-8"))[:1000]
    texts = [record["output"] for record in records if 0 < len(record["output"]) < 300]
    wanted = [text for text in texts if language == "en" or len(re.findall("[\u4e00-\u9fff]", text)) > len(text) / 2][
        :200
    ]
    return [Answer("q", text[:9] + text[len(text) // 3 :] if i % 9 else text, text) for i, text in enumerate(wanted)]


def is_chinese(answers: Sequence[Answer]) -> bool:
    return re.search("[\u4e00-\u9fff]", answers[0].reference) is not None


def of_each(name: str, answers: Sequence[Answer]) -> list[float]:
    return [METRICS[name].value(METRICS[name].statistics([answer])[0]) for answer in answers]


def test_bleu_is_sacrebleus(answers: list[Answer]) -> None:
    said, wanted = [a.text for a in answers], [a.reference for a in answers]
    reference = BLEU(tokenize="zh" if is_chinese(answers) else "13a")
    found = estimate(METRICS["bleu"], answers)
    assert found.value == pytest.approx(reference.corpus_score(said, [wanted]).score, abs=1e-9)
    assert found.how == str(reference.get_signature())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_chrf_is_sacrebleus(answers: list[Answer]) -> None:
    reference = CHRF()
    corpus = reference.corpus_score([a.text for a in answers], [[a.reference for a in answers]])
    found = estimate(METRICS["chrf"], answers)
    assert found.value == pytest.approx(corpus.score, abs=1e-9)
    assert str(reference.get_signature()).startswith(found.how)
    alone = [reference.sentence_score(a.text, [a.reference]).score for a in answers]
    assert of_each("chrf", answers) == pytest.approx(alone, abs=1e-9)


def test_rouge_is_that_of_rouge_score(answers: list[Answer]) -> None:
    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer([*names.values()], tokenizer=Characters() if is_chinese(answers) else None)
    expected = [scorer.score(a.reference, a.text) for a in answers]
    for name, other in names.items():
        scores = [one[other].fmeasure for one in expected]
        assert of_each(name, answers) == pytest.approx(scores, abs=1e-9)
        assert estimate(METRICS[name], answers).value == pytest.approx(sum(scores) / len(scores), abs=1e-9)
        assert sum(scores) > 1  # rouge-score's own tokenizer gives 0.0 of Chinese


def test_meteor_is_nltks_without_synonyms(answers: list[Answer]) -> None:
    class Nothing:
        def synsets(self, word: str) -> list[str]:
            return []

    cut: Callable[[str], list[str]] = (
        characters if is_chinese(answers) else lambda text: re.sub(r"[^a-z0-9]+", " ", text.lower()).split()
    )
    cutted = [(cut(a.reference), cut(a.text)) for a in answers]
    expected = [
        meteor_score([wanted], said, wordnet=Nothing()) if wanted and said else 0.0 for wanted, said in cutted
    ]
    assert of_each("meteor", answers) == pytest.approx(expected, abs=1e-9)
    assert sum(expected) > 1


def squad(text: str) -> list[str]:
    """The official script, rewritten from its description: case, punctuation, articles, white space."""
    kept = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def test_words_are_compared_as_squad_does(answers: list[Answer]) -> None:
    cut = characters if is_chinese(answers) else squad
    for answer, score, same in zip(
        answers, of_each("token_f1", answers), of_each("normalized_match", answers), strict=True
    ):
        said, wanted = cut(answer.text), cut(answer.reference)
        both = sum((Counter(said) & Counter(wanted)).values())
        if both:
            precision, recall = both / len(said), both / len(wanted)
            assert score == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)
        else:
            assert score == float(said == wanted)
        assert same == float(said == wanted if wanted else answer.text.strip() == answer.reference.strip())


@pytest.mark.parametrize("metric", [one for one in ALL if not one.needs_scores], ids=lambda metric: metric.name)
@pytest.mark.parametrize(
    "texts",
    [
        [("", "")],
        [("", "a")],
        [("a", "")],
        [("?!", "。")],
        [("  \n\t", " "), ("\x00\ud83d", "\u202e"), ("#### ", "\\boxed{"), ("(none)", "#### -")],
        [("word " * 300, "other " * 200)],
        [("१२ हिन्दी ภาษาไทย 日本語です", "हिन्दी है ภาษา 日本")],
    ],
    ids=["nothing", "no answer", "no reference", "no words", "odd", "long", "scripts"],
)
def test_a_metric_is_a_finite_number_whatever_the_texts_are(metric: object, texts: list[tuple[str, str]]) -> None:
    answers = [Answer("q", said, wanted) for said, wanted in texts]
    found = estimate(METRICS[metric.name], answers)  # type: ignore[attr-defined]
    told = [found.value, *(end for end in (found.low, found.high) if end is not None)]
    assert all(0 <= number <= 1500 for number in told)
    assert found.count == len(answers)
    json.dumps([told, found.how, found.details], allow_nan=False)


def test_every_metric_stands_under_its_name() -> None:
    assert [metric.name for metric in ALL] == [*METRICS]
    assert all(metric.title and metric.better in ("min", "max", None) for metric in ALL)
