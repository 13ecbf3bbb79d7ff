from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from raysft.data.records import Conversation, Message, Refusal
from raysft.data.rules.record.cleaner import Cleaned, Cleaner, rules_hash
from raysft.errors import DataError, RecipeError
from raysft.recipe.cleaning import Rule

TOKENS = ["<|im_start|>", "<|im_end|>"]
VISA = "4532015112830366"


def rule(name: str, **fields: Any) -> Rule:
    adapter: TypeAdapter[Rule] = TypeAdapter(Rule)
    return adapter.validate_python({"rule": name, **fields})


def talk(question: str, answer: str = "It is a small town by the sea.") -> Conversation:
    return Conversation(3, (Message("user", question), Message("assistant", answer)), source="s")


def apply(rules: Sequence[Rule], conversation: Conversation, seed: int = 0) -> Cleaned:
    return Cleaner(rules, seed=seed, special_tokens=TOKENS).apply(conversation)


GOOD = talk("What kind of place is Whitby in England?")


def lists(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "violence.txt").write_text("kill\nblow up\n坏蛋\n", "utf-8")
    return {"violence": str(tmp_path / "violence.txt")}


FRENCH = talk("Pourriez-vous m'expliquer cela ?", "La photosynthèse transforme la lumière en énergie.")
BAD: dict[str, tuple[dict[str, Any], Conversation, str]] = {
    "length": ({"min_answer_chars": 3}, talk("hi", "a"), "answer_too_short"),
    "language": ({"keep": ["en"]}, FRENCH, "fr"),
    "repetition": ({}, talk("hi", "I love you. " * 20), "top_ngram"),
    "symbols": ({}, talk("<>!?", "{}~^"), "ratio"),
    "quality": ({}, talk("hi", "ha " * 99), "low_score"),
    "harmful_words": ({}, talk("how to kill time"), "violence"),
    "pii": ({}, talk("I am jane@mail.org"), "email"),
    "special_tokens": ({}, talk("a <|im_end|> b"), "control_token"),
}


def fields_of(name: str, tmp_path: Path) -> dict[str, Any]:
    return {**BAD[name][0], **({"lists": lists(tmp_path)} if name == "harmful_words" else {})}


@pytest.mark.parametrize("name", BAD)
def test_drop_report_and_pass(name: str, tmp_path: Path) -> None:
    _, bad, kind = BAD[name]
    fields = fields_of(name, tmp_path)
    dropped = apply([rule(name, action="drop", **fields)], bad)
    assert dropped.conversations == ()
    assert dropped.refusal is not None
    assert dropped.refusal.reason == f"{name}:{kind}"
    assert dropped.findings[0] == f"{name}.{kind}"
    reported = apply([rule(name, action="report", **fields)], bad)
    assert (reported.refusal, reported.findings) == (None, dropped.findings)
    assert [replace(one, metadata={}) for one in reported.conversations] == [bad]
    good = apply([rule(name, action="drop", **fields)], GOOD)
    assert good.refusal is None
    assert good.findings == (("language.en",) if name == "language" else ())
    assert [replace(one, metadata={}) for one in good.conversations] == [GOOD]


def test_normalise_fixes_or_reports() -> None:
    dirty = talk("cafe\u0301 \r\n", "  x = 1 \n\n\n\n\n  y = 2")
    fixed = apply([rule("normalise")], dirty)
    assert [m.content for m in fixed.conversations[0].messages] == ["café", "  x = 1\n\n\n  y = 2"]
    assert (fixed.conversations[0].tags, fixed.findings) == (("normalised",), ("normalise",))
    assert apply([rule("normalise", action="report")], dirty) == Cleaned((dirty,), None, ("normalise",))
    assert apply([rule("normalise")], GOOD) == Cleaned((GOOD,), None, ())


@pytest.mark.parametrize(
    ("name", "question", "masked", "findings"),
    [
        ("pii", f"a@b.org or b@c.org, {VISA}", "<EMAIL> or <EMAIL>, <BANK_CARD>", ["email", "email", "bank_card"]),
        ("pii", "电话13800138000🙂", "电话<PHONE>🙂", ["phone"]),
        ("pii", "password=Tr0ub4dor&3x", "password=<SECRET>", ["secret"]),
        ("harmful_words", "Kill, blow  up, 坏蛋, skill", "***, ***, ***, skill", ["violence"] * 3),
        ("special_tokens", "a<|im_end|> <|im_<|im_end|>end|>", "a ", ["control_token"] * 2),
    ],
)
def test_fix(name: str, question: str, masked: str, findings: list[str], tmp_path: Path) -> None:
    fields = {"lists": lists(tmp_path)} if name == "harmful_words" else {}
    result = apply([rule(name, action="fix", **fields)], talk(question))
    (fixed,) = result.conversations
    assert fixed.messages[0].content == masked
    assert fixed.tags == (f"masked:{name}",)
    assert Counter(result.findings) == Counter(f"{name}.{kind}" for kind in findings)
    assert apply([rule(name, action="fix", **fields)], fixed) == Cleaned((fixed,), None, ())


def test_a_refusal_never_repeats_what_was_found() -> None:
    for question in ("jane@mail.org", f"card {VISA}", "password=Tr0ub4dor&3x", "13800138000"):
        refusal = apply([rule("pii", action="drop")], talk(question)).refusal
        assert refusal is not None
        assert not any(len(part) > 4 and part in str(refusal) for part in question.replace("=", " ").split()[-1:])


def test_metadata_of_language_and_quality() -> None:
    (one,) = apply([rule("language"), rule("quality")], replace(FRENCH, metadata={"level": 3})).conversations
    assert one.metadata == {"level": 3, "language": "fr", "quality": pytest.approx(1.0, abs=0.1)}
    undetermined = apply([rule("language", action="drop", keep=["en"])], talk("2 + 2 = ?", "4"))
    assert undetermined.conversations[0].metadata == {"language": "und"}  # dropped is what is known to be other


def test_the_order_is_the_recipes() -> None:
    dirty = talk("jane@mail.org", "answer  \n\n")
    shorter = rule("length", min_prompt_chars=10)
    assert apply([shorter, rule("pii")], dirty).refusal is None
    assert apply([rule("pii"), shorter], dirty).refusal == Refusal(
        "length:prompt_too_short", "7 characters; at least 10"
    )
    assert apply([rule("pii"), shorter], dirty).findings == ("pii.email", "length.prompt_too_short")


def test_whole_data_rules_are_left_out_and_no_rules_change_nothing() -> None:
    rules = [rule("exact_duplicates"), rule("near_duplicates"), rule("leakage"), rule("conflicts")]
    assert apply(rules, GOOD) == apply([], GOOD) == Cleaned((GOOD,), None, ())
    assert rules_hash(rules) == []
    cleaner = Cleaner([rule("special_tokens")], seed=0)
    assert cleaner.apply(talk("<|im_end|>")).refusal is None


def test_variants_of_variants_differ_and_one_can_be_dropped(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("place\tspot, location, town, area\n", "utf-8")
    noise, synonyms = rule("noise", copies=2), rule("synonyms", table=str(tmp_path / "t.tsv"), probability=1)
    result = apply([noise, synonyms], GOOD)
    assert result.conversations[0] == GOOD
    assert len({one.messages[0].content for one in result.conversations}) == len(result.conversations) >= 5
    assert {m.messages[1].content for m in result.conversations} == {GOOD.messages[1].content}
    assert Counter(result.findings) == {"noise": 2, "synonyms": len(result.conversations) - 3}
    expand = rule("expand", templates=["{prompt}", "Please be so kind and answer: {prompt}"], copies=2)
    kept = apply([expand, rule("length", max_prompt_chars=50)], GOOD)
    assert (kept.conversations, kept.refusal) == ((GOOD,), None)  # one variant was too long: no refused record
    assert kept.findings == ("expand", "length.prompt_too_long")


def test_augmentation_depends_on_seed_and_record_alone() -> None:
    rules = [rule("noise", copies=3, probability=0.5)]
    first = apply(rules, GOOD)
    assert apply(rules, GOOD) == first
    assert apply(rules, GOOD, seed=1) != first
    assert apply(rules, replace(GOOD, id=4)).conversations[1].messages != first.conversations[1].messages
    program = (
        "from raysft.data.rules.record.cleaner import Cleaner\nfrom raysft.recipe.cleaning import Noise\n"
        "from raysft.data.records import Conversation, Message\n"
        f"one = {GOOD!r}\nrules = [Noise(rule='noise', copies=3, probability=0.5)]\n"
        "print([c.messages[0].content for c in Cleaner(rules, seed=0).apply(one).conversations])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": "platform"}
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == str([c.messages[0].content for c in first.conversations])


def test_copies_0_changes_in_place() -> None:
    (one,) = apply([rule("expand", templates=["Q: {prompt}"], copies=0)], GOOD).conversations
    assert one.messages[0].content == f"Q: {GOOD.messages[0].content}"
    assert one.tags == ("augmented:expand",)


def test_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "my_map.py"
    path.write_text("def f(c, random):\n    return None if 'no' in c.messages[0].content else [c, c]\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    rules = [rule("map", function="my_map:f")]
    assert apply(rules, talk("no")) == Cleaned((), Refusal("map:refused", "my_map:f"), ("map.refused",))
    assert apply(rules, GOOD).conversations == (GOOD, GOOD)
    assert rules_hash(rules)[0]["source"] == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("harmful_words", {"lists": {"a": "/no/such/file"}}, DataError, "/no/such/file"),
        ("synonyms", {"table": "/no/such/file"}, DataError, "/no/such/file"),
        ("map", {"function": "no_such_module:f"}, RecipeError, "no_such_module"),
        ("language", {"keep": ["english"]}, RecipeError, "english"),
        ("pii", {"phone_regions": ["XX"]}, RecipeError, "XX"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    name: str, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        Cleaner([rule(name, **fields)], seed=0)
    assert message in str(caught.value)


def test_the_hash_covers_fields_and_files_but_not_where_they_lie(tmp_path: Path) -> None:
    def hashed(name: str, **fields: Any) -> str:
        return json.dumps(rules_hash([rule(name, **fields)]))

    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("word\tterm\n" if name != "c" else "word\tother\n", "utf-8")
    a, b, c = (str(tmp_path / name) for name in ("a", "b", "c"))
    assert hashed("synonyms", table=a) == hashed("synonyms", table=b) != hashed("synonyms", table=c)
    assert hashed("harmful_words", lists={"x": a}) == hashed("harmful_words", lists={"x": b})
    assert len({hashed("harmful_words", lists=lists) for lists in ({"x": a}, {"x": c}, {"y": a})}) == 3
    assert len({hashed("length", min_prompt_chars=n) for n in (1, 2)}) == 2
    assert "phonenumbers" in hashed("pii")


TEXTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["a@b.org", VISA, "13800138000", "10.1.2.3", "<|im_end|>", "<|im_", "end|>", " ", "\r\n", "1"]
        )
    ).map("".join),
)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_any_text_goes_through_all_rules(question: str, answer: str) -> None:
    names = ("normalise", "length", "language", "repetition", "symbols", "quality")
    rules = [rule(name, action="report") for name in names]
    rules += [rule("normalise"), rule("special_tokens", action="fix"), rule("pii"), rule("noise")]
    result = apply(rules, talk(question, answer))
    assert result.refusal is None
    assert all(isinstance(finding, str) for finding in result.findings)


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS)
def test_fixing_twice_is_fixing_once(question: str, answer: str) -> None:
    for fix in (rule("normalise"), rule("pii"), rule("special_tokens", action="fix")):
        (once,) = apply([fix], talk(question, answer)).conversations
        assert apply([fix], once) == Cleaned((once,), None, ())
