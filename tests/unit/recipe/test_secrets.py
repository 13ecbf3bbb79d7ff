"""What is hidden in URLs, and what is left alone."""

from __future__ import annotations

import pytest

from raysft.errors import redacted
from raysft.recipe.secrets import hidden


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:s3cret@host:5432/db", "postgresql://***@host:5432/db"),
        (
            "postgresql+psycopg://me:p%40ss@host/db?sslmode=require",
            "postgresql+psycopg://***@host/db?sslmode=***",
        ),
        ("mysql://host/db?user=me&password=s3cret&x=1", "mysql://host/db?user=***&password=***&x=***"),
        (
            "https://h/a.jsonl?X-Amz-Signature=abc&X-Amz-Date=2026",
            "https://h/a.jsonl?X-Amz-Signature=***&X-Amz-Date=***",
        ),
        ("https://h/a?sv=1&sig=abc%3D&se=2", "https://h/a?sv=***&sig=***&se=***"),
        ("https://h/a?AWSAccessKeyId=AK&Expires=9", "https://h/a?AWSAccessKeyId=***&Expires=***"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("see postgresql://a:b@c/d and http://e:f@g/h", "see postgresql://***@c/d and http://***@g/h"),
        ("sqlite:////data/study.db", "sqlite:////data/study.db"),
        ("s3://bucket/key=1/token/x.parquet", "s3://bucket/key=1/token/x.parquet"),
        ("a:b@c", "a:b@c"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
    ],
)
def test_passwords_and_signatures_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert hidden({"a": [text, 1, None], "b": {"c": text}}) == {"a": [shown, 1, None], "b": {"c": shown}}
