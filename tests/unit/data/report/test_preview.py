from __future__ import annotations

import itertools
import json

import pytest
from chats import VICUNA, tokenizer_of
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from raysft.data.report.preview import certificate, preview
from raysft.errors import DataError
from raysft.recipe.change import change
from raysft.recipe.schema import Recipe
from raysft.recipe.sections.data import DataSection
from raysft.recipe.sections.head_objectives import ClassifyObjective
from raysft.recipe.sections.model import ModelSection


@pytest.fixture
def recipe(tmp_path, tokenizers) -> Recipe:
    tokenizers["chatml"].save_pretrained(tmp_path / "tok")
    lines = [
        json.dumps({"instruction": "你好", "output": "\nyes 🙂"}),
        '{"text": 1}',
        "broken",
        '{"instruction": "", "output": "b"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return Recipe(
        name="r",
        model=ModelSection(source="random", tokenizer=str(tmp_path / "tok")),
        data=DataSection(train=(str(tmp_path / "a.jsonl"),), max_tokens=64),
    )


def test_plain_preview_marks_trained_text(recipe):
    text = preview(recipe, 3).plain.plain
    assert "<|im_start|>assistant\n[[\nyes 🙂<|im_end|>]]" in text
    assert "<|im_start|>user\n你好<|im_end|>" in text
    assert "a.jsonl:2 refused, unknown_format: columns seen: text" in text
    assert "a.jsonl:3 refused, malformed_json" in text
    assert "0 straddle" in text
    assert "1 answers begin with a token cut from the prompt's" in text
    assert "a.jsonl:4" not in text


def test_texts_that_are_learnt_as_a_whole_show_their_labels(make):
    recipe = make([{"text": "fine", "label": "good"}, {"text": "so so", "labels": ["good", "bad"]}])
    objective = ClassifyObjective(kind="classify", labels=("good", "bad"), multi_label=True)
    text = preview(recipe.model_copy(update={"objective": objective}), 2).plain.plain
    assert "a.jsonl:1 5 tokens, label: good\nfine" in text
    assert ", label: good, bad\nso so" in text
    assert "[[" not in text
    assert "trained" not in text


def styled(text, *words):
    """What stands in styles that hold all these words."""
    return [text.plain[s.start : s.end] for s in text.spans if all(word in str(s.style).split() for word in words)]


def test_coloured_preview(recipe):
    text = preview(recipe, 1).colored
    assert "[[" not in text.plain
    assert "".join(styled(text, "green")) == "\nyes 🙂<|im_end|>"


def test_token_borders_show_as_alternating_shades(recipe, tokenizers):
    text = preview(recipe, 1).colored
    tokens = [s for s in text.spans if str(s.style).split()[-1] in ("grey23", "dark_red", "dim", "green", "red")]
    shades = [str(span.style).split()[-1] in ("grey23", "dark_red") for span in tokens]
    assert len(tokens) > 10
    assert all(a != b for a, b in itertools.pairwise(shades))
    pieces = [text.plain[span.start : span.end] for span in tokens]
    rendered = "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n\nyes 🙂<|im_end|>\n"
    assert "".join(pieces) == rendered
    cut = rendered.index("\nyes")
    ids = [i for part in (rendered[:cut], rendered[cut:]) for i in tokenizers["chatml"](part).input_ids]
    whole = [tokenizers["chatml"].decode([i]) for i in ids]
    expected = [piece for piece in whole if piece.isascii()]
    assert [p for p in pieces if p.isascii()] == expected, "one shade per token, save those that share a character"


def with_data(recipe, lines, **fields):
    path = recipe.data.train[0]
    with open(path, "w", encoding="utf-8") as stream:
        stream.write("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    data = DataSection.model_validate({"train": [path], "max_tokens": 64, **fields})
    return recipe.model_copy(update={"data": data})


def test_rules_run_and_tell_what_they_did(recipe):
    lines = [
        {"instruction": "mail?", "output": "to anna@example.org"},
        {"instruction": "short?", "output": "no"},
    ]
    rules = [{"rule": "pii"}, {"rule": "length", "min_answer_chars": 3}]
    text = preview(with_data(recipe, lines, rules=rules), 2).plain.plain
    assert "[[to <EMAIL><|im_end|>" in text
    assert "anna@" not in text
    assert "    rules found: pii.email\n" in text
    assert "    tags: masked:pii\n" in text
    assert "a.jsonl:2 refused, length:answer_too_short: 2 characters" in text
    assert "refused: length:answer_too_short" in text.splitlines()[-2]
    assert "rules found: length.answer_too_short, pii.email" in text.splitlines()[-1]


def test_augmented_records_show_their_samples_and_held_out_ones_are_not_augmented(recipe):
    rules = [{"rule": "expand", "templates": ["Please: {prompt}"]}]
    lines = [{"instruction": "why", "output": "so"}]
    text = preview(with_data(recipe, lines, rules=rules), 1).plain.plain
    assert "sample 2 of 2" in text
    assert "Please: why" in text
    text = preview(with_data(recipe, lines, rules=rules, eval_fraction=0.9999), 1).plain.plain
    assert "(held out)" in text
    assert "Please" not in text


def test_packed_rows_show_their_segments(recipe):
    lines = [{"instruction": f"say {i}", "output": "7" * i} for i in range(1, 7)]
    text = preview(with_data(recipe, lines), 6, packed=True).plain.plain
    rows = [line for line in text.splitlines() if line.startswith("--- row ")]
    segments = [line for line in text.splitlines() if line.startswith("--- segment ")]
    assert rows
    assert len(segments) == sum(int(row.split(": ")[1].split()[0]) for row in rows) == 6
    for row in rows:
        used, limit = int(row.split(", ")[1].split()[0]), int(row.split()[-2])
        assert used <= limit == 64
    assert sum(int(s.rpartition(" tokens, ")[0].split()[-1]) for s in segments) == sum(
        int(row.split(", ")[1].split()[0]) for row in rows
    )


def test_a_file_of_blank_lines_has_nothing_to_show(recipe):
    with open(recipe.data.train[0], "w", encoding="utf-8") as stream:
        stream.write("\n\n  \n")
    with pytest.raises(DataError, match="no record") as raised:
        preview(recipe, 3)
    assert raised.value.exit_code == 2


def test_certificate():
    counts = {
        "records_read": 10,
        "examples": 7,
        "rows": 2,
        "fill": 0.5,
        "tokens": 100,
        "target_tokens": 40,
        "straddles": 3,
        "truncated": 1,
        "refused": {"over_long": 3},
    }
    refusals = {"over_long": [{"where": "f:9", "detail": "99 tokens"}]}
    counts["notes"] = {"unread": {"messages[].mood": {"count": 4, "example": "'good'"}}}
    inputs = {"ignore_columns": ["nowhere"]}
    lines = certificate({"counts": counts, "max_tokens": 50, "refusals": refusals, "inputs": inputs})
    text = "\n".join(lines)
    for part in (
        "7 samples of 10",
        "40 of 100 tokens trained (40.0%)",
        "3 tokens straddle",
        "1 samples cut",
        "3 x over_long",
        "nothing reads `messages[].mood` (4 of 10 records, 40.0%), e.g. 'good'",
        "data.ignore_columns names what no record has: nowhere",
        "f:9",
    ):
        assert part in text


def test_preview_tells_what_is_not_read(recipe, tmp_path):
    record = {"instruction": "q", "output": "a", "mood": "good"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    text = preview(recipe, 1).plain.plain
    assert "nothing reads `mood` (1 of 1 records, 100.0%), e.g. 'good'" in text
    (tmp_path / "a.jsonl").write_text(json.dumps({**record, "system_prompt": "s"}))
    assert "refused, unread:system_prompt" in preview(recipe, 1).plain.plain


@pytest.mark.parametrize(("over_long", "parts"), [("truncate", 1), ("split", 2)])
def test_preview_of_samples_that_are_too_long(recipe, tmp_path, over_long, parts):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "alpha beta gamma: " * 30}))
    text = preview(change(recipe, {"data.over_long": over_long}), 1).plain.plain
    assert text.count(" tokens, ") == parts
    assert text.count("[[") == parts
    assert ("cut to data.max_tokens" in text) is (over_long == "truncate")
    assert (f"part {parts} of {parts}: " in text) is (over_long == "split")


MIXED = {
    "max_tokens": 50,
    "counts": {
        "records_read": 30,
        "examples": 20,
        "occurrences": 26,
        "rows": 2,
        "fill": 0.5,
        "tokens": 1000,
        "target_tokens": 400,
        "target_tokens_by_role": {"assistant": 300, "text": 100},
        "straddles": 0,
        "truncated": 0,
        "refused": {},
        "dropped": {"near_duplicates": 4, "exact_duplicates": 3},
        "findings": {"pii.email": 9, "symbols": 0},
        "selected": {"near_duplicates": 6, "exact_duplicates": 3, "conflicts": 0},
        "sources": {
            "a": {"records": 20, "refused": 1, "samples": 15, "tokens": 700, "target_tokens": 300, "truncated": 2},
            "b": {"records": 10, "refused": 0, "samples": 5, "tokens": 300, "target_tokens": 100, "truncated": 0},
        },
    },
    "refusals": {},
    "proof": {"unpacked_samples": 26, "masks": "00ff"},
}


def test_certificate_of_a_mixture():
    lines = certificate(MIXED)
    for line in (
        "26 samples in an epoch, with repeats",
        "400 of 1,000 tokens trained (40.0%): assistant 300, text 100",
        "source a: 15 samples of 20 records (1 refused), 700 tokens, 75.0% of the trained ones, 2 cut",
        "source b: 5 samples of 10 records (0 refused), 300 tokens, 25.0% of the trained ones",
        "dropped by rules: exact_duplicates 3, near_duplicates 4",
        "found by rules: near_duplicates 6, pii.email 9",
        "unpacked again, all 26 samples are equal; masks 00ff",
    ):
        assert line in lines
    assert not any("symbols" in line or "stream" in line for line in lines)


def test_certificate_of_one_source_names_no_source():
    one = {**MIXED["counts"], "sources": {"a": MIXED["counts"]["sources"]["a"]}}
    assert not any(line.startswith("source") for line in certificate({**MIXED, "counts": one}))


def test_certificate_of_a_stream_says_that_it_is_a_sample():
    counts = {name: value for name, value in MIXED["counts"].items() if name not in ("rows", "fill", "occurrences")}
    lines = certificate({"max_tokens": 50, "sampled": True, "counts": counts, "refusals": {}})
    assert lines[0] == "only the first 30 records of a stream are counted here"
    assert not any("rows" in line for line in lines)


def test_data_cannot_command_the_terminal_or_look_like_a_mark(recipe):
    lines = [{"instruction": "\x1b[31mred \x9b2J \u202e", "output": "a[[b]] [~c~] [?d?] e]"}]
    text = preview(with_data(recipe, lines), 1).plain.plain
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "\u202e" not in text
    assert r"\u001b[31mred \u009b2J \u202e" in text
    assert r"[[a\[[b]\] \[~c~\] \[?d?\] e]<|im_end|>]]" in text
    coloured = preview(with_data(recipe, lines), 1).colored.plain
    assert "\x1b" not in coloured
    assert "a[[b]] [~c~] [?d?] e]" in coloured, "colours need no marks"


def test_unknown_tokens_are_shown_and_counted(recipe, tmp_path):
    tokenizer_of("vicuna, unigram").save_pretrained(tmp_path / "unigram")
    changed = change(recipe, {"model.tokenizer": str(tmp_path / "unigram")})
    lines = [{"instruction": "a ☃ b", "output": "no ☃ here"}]
    text = preview(with_data(changed, lines), 1).plain.plain
    assert text.count("[?<unk>?]") == 2
    assert "2 unknown tokens: the tokenizer lacks letters" in text


def test_letters_that_vanish_are_counted_as_unknown(recipe, tmp_path):
    """A byte-level vocabulary without a byte, and without a token for what it lacks."""
    state = json.loads(tokenizer_of("vicuna, gpt2").backend_tokenizer.to_str())
    state["model"]["vocab"] = {word: i for word, i in state["model"]["vocab"].items() if "{" not in word}
    state["model"]["merges"] = [pair for pair in state["model"]["merges"] if "{" not in "".join(pair)]
    numbers = {word: number for number, word in enumerate(state["model"]["vocab"])}
    state["model"]["vocab"] = numbers
    for added in state["added_tokens"]:
        added["id"] = len(numbers)
    backend = Tokenizer.from_str(json.dumps(state))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = VICUNA
    tokenizer.save_pretrained(tmp_path / "lossy")
    changed = change(recipe, {"model.tokenizer": str(tmp_path / "lossy")})
    lines = [{"instruction": "json?", "output": 'it is {"a": 1} {'}]
    text = preview(with_data(changed, lines), 1).plain.plain
    assert "2 unknown tokens" in text


def test_the_certificate_tells_what_was_cut_and_unknown():
    counts = {**MIXED["counts"], "cuts": 7, "unknown": 3, "truncated": 2, "removed_user": 50, "removed_system": 4}
    lines = certificate({**MIXED, "counts": counts})
    assert "7 answers begin with a token cut from the prompt's, as when the model generates" in lines
    assert any(line.startswith("3 unknown tokens") for line in lines)
    assert "2 samples cut at 50 tokens: system 4, user 50" in lines


def test_which_of_several_templates_wrote_a_record_is_told(recipe, tokenizers):
    tokenizer = tokenizers["qwen3"]
    own = tokenizer.chat_template
    tokenizer.chat_template = {"default": own, "tool_use": own}
    tokenizer.save_pretrained(recipe.model.tokenizer)
    tokenizer.chat_template = own
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    data = with_data(recipe, [{"messages": turns, "tools": [tool]}, {"messages": turns}], max_tokens=512)
    text = preview(data, 2).plain.plain
    assert "written by the tokenizer's template `tool_use` (1 of 2 records, 50.0%)" in text
    assert "written by the tokenizer's template `default` (1 of 2 records, 50.0%)" in text


def test_raw_tokens_with_their_ids(recipe, tokenizers):
    text = preview(recipe, 1, raw=True).plain.plain
    rows = [line.split(maxsplit=3) for line in text.splitlines() if line[:7].strip().isdigit()]
    tokenizer = tokenizers["chatml"]
    assert [int(number) for number, *_ in rows] == list(range(16))
    assert [word for *_, word in rows] == tokenizer.convert_ids_to_tokens([int(index) for _, index, *_ in rows])
    assert [kind for _, _, kind, _ in rows].count("trained") == 6
