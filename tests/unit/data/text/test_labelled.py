"""Texts with labels as samples: their tokens, their labels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raysft.data.formats import read_record
from raysft.data.formats.unread import Reading
from raysft.data.records import Conversation, Message, Refusal
from raysft.data.text.pairs import encode_answers
from raysft.data.text.tokenizer import load_tokenizer, template_for
from raysft.recipe.columns import Classes

ONE, SEVERAL = Classes(("spam", "ham")), Classes(("spam", "ham", "odd"), several=True)
READING = Reading(labelled=True)


def encoded(tokenizers: Any, record: dict[str, Any], classes: Classes = ONE, **how: Any) -> Any:
    found = read_record(record, READING, id=1, source="")
    if isinstance(found, Refusal):
        return found.reason
    tokenizer = tokenizers["chatml"]
    settings = {"train_on": "all", "max_tokens": 100, "over_long": "drop", **how}
    (one,) = encode_answers(
        found,
        tokenizer,
        template_for("tokenizer", tokenizer, is_needed=False),
        "labelled",
        categories=(classes,),
        **settings,
    )
    if isinstance(one, Refusal):
        return one.reason
    return tokenizer.decode(one[0].input_ids), one[0].values["label"]


def test_a_text_and_the_number_of_its_label(tokenizers: Any) -> None:
    text, value = encoded(tokenizers, {"text": "cheap pills", "label": "spam"})
    assert text.startswith("cheap pills")
    assert value == 0
    assert encoded(tokenizers, {"text": "hello", "label": 3, "label_text": "ham"})[1] == 1
    both = encoded(tokenizers, {"sentence1": "one", "sentence2": "two", "label": "ham"})
    assert both[0].startswith("one\ntwo")


def test_several_labels_or_none(tokenizers: Any) -> None:
    for label, expected in ((["odd", "spam"], [1, 0, 1]), ([], [0, 0, 0]), ("ham", [0, 1, 0])):
        assert encoded(tokenizers, {"text": "a", "label": label}, SEVERAL)[1] == expected
    assert encoded(tokenizers, {"text": "a", "label": ["spam", "ham"]}) == "several_labels"
    assert encoded(tokenizers, {"text": "a", "label": ["spam"]})[1] == 0


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "a", "label": "eggs"}, "unknown_label"),
        ({"text": "a", "label": None}, "no_label"),
        ({"text": "a"}, "no_label"),
        ({"instruction": "a", "output": "b"}, "no_label"),
        ({"text": "a", "label": {"x": 1}}, "wrong_type"),
        ({"text": "", "label": "spam"}, "empty_answer"),
        ({"text": "a", "system": "be brief", "label": "spam"}, "unread:system"),
    ],
)
def test_what_is_refused(tokenizers: Any, record: dict[str, Any], reason: str) -> None:
    assert encoded(tokenizers, record) == reason


@pytest.mark.parametrize(
    ("given", "meant"),
    [("SPAM", "spam"), (" spam", "spam"), ("cafe\u0301", "caf\u00e9"), ("spa", None), ("", None), ("eggs", None)],
)
def test_a_label_that_is_written_otherwise_is_told_which_was_meant(given: str, meant: str | None) -> None:
    told = Classes(("spam", "ham", "caf\u00e9")).meant(given)
    assert (repr(meant) in told) if meant else not told


DOMAIN = Classes(("mail", "chat", "7", "true"), name="domain", column="place")


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"text": "a", "label": "ham", "place": "chat"}, (1, 1)),
        ({"text": "a", "place": "mail"}, (-1, 0)),
        ({"text": "a", "label": None, "place": "mail"}, (-1, 0)),
        ({"text": "a", "label": "", "place": 7.0}, (-1, 2)),
        ({"text": "a", "label": "", "metadata": {"place": True}}, (-1, 3)),
        ({"sentence1": "a", "sentence2": "b", "label": None, "place": "mail"}, (-1, 0)),
        ({"text": "a", "label": "eggs", "place": "mail"}, "unknown_label"),
        ({"text": "a", "label": "ham", "place": "post"}, "unknown_domain"),
        ({"text": "a", "label": "ham"}, "no_domain"),
        ({"text": "a", "label": "ham", "place": None}, "no_domain"),
        ({"instruction": "a", "output": "b", "place": "mail"}, "no_label"),
    ],
)
def test_a_domain_is_beside_each_text_and_a_label_beside_some(tokenizers: Any, record: Any, found: Any) -> None:
    talks = read_record(record, READING, id=1, source="")
    assert not isinstance(talks, Refusal)
    template = template_for("tokenizer", tokenizers["chatml"], is_needed=False)
    categories = (Classes(("spam", "ham"), optional=True), DOMAIN)
    (one,) = encode_answers(
        talks,
        tokenizers["chatml"],
        template,
        "labelled",
        train_on="all",
        max_tokens=100,
        over_long="drop",
        categories=categories,
    )
    if isinstance(found, str):
        assert isinstance(one, Refusal)
        assert one.reason == found
    else:
        assert not isinstance(one, Refusal)
        assert (one[0].values["label"], one[0].values["domain"]) == found


def test_of_several_labels_none_and_not_known_are_two_things(tokenizers: Any) -> None:
    several = Classes(("spam", "ham"), several=True, optional=True)
    for label, expected in (([], [0, 0]), (None, [-1, -1]), (["ham"], [0, 1])):
        assert encoded(tokenizers, {"text": "a", "label": label}, several)[1] == expected


def test_a_long_text_keeps_its_beginning_and_its_end_of_text(tokenizers: Any) -> None:
    record = {"text": "abc " * 40, "label": "ham"}
    assert encoded(tokenizers, record, max_tokens=10) == "over_long"
    whole, _ = encoded(tokenizers, record, max_tokens=1000)
    cut, _ = encoded(tokenizers, record, max_tokens=10, over_long="truncate")
    end = tokenizers["chatml"].eos_token
    assert whole.endswith(end)
    assert cut.endswith(end)
    assert whole.startswith(cut.removesuffix(end))


def test_other_objectives_read_a_label_as_an_answer() -> None:
    (talk,) = read_record({"text": "a", "label": "spam"}, Reading(), id=1, source="")  # type: ignore[misc]
    assert isinstance(talk, Conversation)
    assert talk.messages == (Message("user", "a"), Message("assistant", "spam"))


def test_an_encoders_tokenizer_puts_its_own_tokens_around_each_text(tmp_path: Path) -> None:
    """Files of sentence encoders have no end of text, and cut and pad every text to one length."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cheap", "pills"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    backend.enable_truncation(16)
    backend.enable_padding(length=16)
    specials = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **specials).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    for text, over_long, expected in (
        ("cheap pills", "drop", [2, 4, 5, 3]),
        ("pills " * 30, "truncate", [2, *[5] * 18, 3]),
    ):
        talk = Conversation(1, (Message("text", text),), label="ham")
        template = template_for("tokenizer", tokenizer, is_needed=False)
        settings = {"train_on": "all", "max_tokens": 20, "over_long": over_long, "categories": (ONE,)}
        ((one,),) = encode_answers([talk], tokenizer, template, "labelled", **settings)  # type: ignore[misc, arg-type]
        assert one.input_ids.tolist() == expected
