"""JSON as files hold it: broken, nested, with repeated keys, with any number."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_files import outcomes, values

from raysft.data.read import json_values, readers
from raysft.data.read.json_values import parse_line
from raysft.data.read.readers import read_range
from raysft.data.records import Refusal
from raysft.errors import DataError


def test_lenient_json(put):
    lines = [
        b'{"a": NaN}',
        rb'{"a": "\ud800"}',
        b'{"a": "\x00"}',
        rb'{"a": "\u0000"}',
        b'{"a": 1234567890123456789}',
    ]
    nan, surrogate, *rest = outcomes(put("a.jsonl", b"\n".join(lines)))
    assert nan["a"] != nan["a"]
    assert surrogate == {"a": "\ud800"}
    assert rest == ["malformed_json", {"a": "\0"}, {"a": 1234567890123456789}]


BROKEN = [  # an array, its records or refusals, the complaint at its end
    (
        b'[{"a": 1},\n {"a": }, {"b": "\\"}]{"}, [{}]]',
        [{"a": 1}, "malformed_json", {"b": '"}]{'}, "not_an_object"],
        "",
    ),
    (b" [] ", [], ""),
    (b"[\n]", [], ""),
    (b'[1, "x,]", null, {"a": NaN} , foo]', ["not_an_object"] * 3 + [{"a": float("inf")}, "malformed_json"], ""),
    (b'[{"a": "\xff"}, {}]', ["invalid_utf8", {}], ""),
    (
        b'[{"a": 1},\n {"a": 2} x]',
        [{"a": 1}, {"a": 2}],
        r"after 2 records, in line 2 \(byte 21\): expected `,` or `]`, found 'x",
    ),
    (b'[{"a": 1}, {"a": "x', [{"a": 1}], "ends inside the value"),
    (b'[{"a": 1}', [{"a": 1}], "found the end"),
    (b'[{"a": 1},]', [{"a": 1}], "expected a value"),
    (b'[{"a": 1}] [', [{"a": 1}], "expected the end"),
    (b'{"a": 1\n} {"b": 2} 7 [{}]', [{"a": 1}, {"b": 2}, "not_an_object", "not_an_object"], ""),
    (b'{"a": \n', [], "ends inside the value"),
    (b"<html>", [], "not valid JSON"),
    (b" \n ", [], ""),
]


@pytest.mark.parametrize(("data", "expected", "complaint"), BROKEN)
def test_broken_json(put, monkeypatch, data, expected, complaint):
    for block_bytes in (1, 3, 1000):
        monkeypatch.setattr(readers, "_JSON_BLOCK_BYTES", block_bytes)
        found, message = [], ""
        try:
            for position, value in read_range(str(put("a.json", data.replace(b"NaN", b"Infinity"))), "json"):
                assert position == len(found)
                found.append(value.reason if isinstance(value, Refusal) else value)
        except DataError as error:
            message = str(error)
        assert found == expected
        assert bool(message) == bool(complaint)
        assert re.search(complaint, message)


def test_bombs(put, monkeypatch):
    bombs = [b"[" * 1_000_000, b'{"a":' * 500 + b"1" + b"}" * 500, b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"]
    reasons = [parse_line(bomb).reason for bomb in bombs]
    assert reasons == ["malformed_json", "nested_too_deep", "nested_too_deep"]
    assert outcomes(put("a.json", b"[" + b",".join(bombs[1:]) + b"]")) == ["nested_too_deep"] * 2
    with pytest.raises(DataError, match="nested over 10,000 deep"):
        values(put("a.json", bombs[0]))


@pytest.mark.parametrize(
    "number", [2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, -(10**19), 10**30, 123456789012345678901]
)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@pytest.mark.parametrize("beside", [{}, {"digits": "9" * 40, "float": 0.1234567890123456789012345}])
def test_whole_numbers_are_never_rounded(tmp_path, suffix, number, beside):
    path = tmp_path / f"a.{suffix}"
    record = {"a": {"b": [number]}, "c": number, **beside}
    path.write_text(json.dumps([record] * 3) if suffix == "json" else json.dumps(record))
    (_, found), *_ = read_range(str(path), suffix)
    assert found == record
    assert type(found["a"]["b"][0]) is int


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b'{"a": 1, "b": 2, "a": 3}', "'a'"),
        (b'{"a" :1,"a"\t: "1"}', "'a'"),
        (
            b'{"m": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "content": "z"}]}',
            "'content'",
        ),
        (b'{"\\u0061": "x", "a": "y"}', "'a'"),
        (b'{"a": {"b": {"c": {"d": [1.5]}, "c": {}}}}', "'c'"),
        (b'{"a": true, "a": 1}', "'a'"),
        (b'{"a": NaN, "a": 1}', "'a'"),
        (b'{"a": 12345678901234567890123, "a": 1}', "'a'"),
        (b'{"a": {"n": 1, "n": 2}, "a": 1}', "'n'"),
    ],
)
def test_a_key_that_stands_twice_in_an_object_refuses_the_record(line, wrong):
    for found in (parse_line(line), *json_values.stream_values([b"[" + line + b"]"], "x", array=True)):
        assert isinstance(found, Refusal)
        assert found.reason == "repeated_key"
        assert f"the key {wrong} stands twice" in found.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=9,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.booleans(), st.booleans())
def test_no_whole_record_is_taken_for_one_with_a_repeated_key(value, ascii, wide):
    line = json.dumps(value, ensure_ascii=ascii, indent=1 if wide else None).encode(errors="surrogatepass")
    assert parse_line(line) == value


def test_a_key_that_says_the_same_twice_is_no_loss():
    assert parse_line(b'{"a": [1, {"b": "x"}], "c": 2, "a": [1, {"b": "x"}]}') == {"a": [1, {"b": "x"}], "c": 2}
