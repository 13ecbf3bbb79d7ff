"""Secrets are found where their issuers' forms stand whole; what only looks like one is left alone."""

from __future__ import annotations

import random
import string

import pytest

from raysft.data.rules.record.secrets import secrets

LETTERS = string.ascii_letters + string.digits


def drawn(count: int, alphabet: str = LETTERS, seed: int = 1) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(alphabet) for _ in range(count))


UPPER = string.ascii_uppercase + string.digits
ISSUED = {
    "AWS": "AKIA" + drawn(16, UPPER),
    "AWS, for a session": "ASIA" + drawn(16, UPPER),
    "GitHub": "ghp_" + drawn(36),
    "GitHub, fine-grained": "github_pat_" + drawn(82),
    "GitLab": "glpat-" + drawn(20),
    "Slack": "xoxb-" + drawn(24),
    "Google": "AIza" + drawn(35),
    "Hugging Face": "hf_" + drawn(34),
    "Stripe": "sk_live_" + drawn(24),
    "OpenAI": "sk-proj-" + drawn(40),
    "JSON web token": ".".join(("eyJ" + drawn(17), "eyJ" + drawn(30), drawn(43))),
}


def found(text: str) -> list[str]:
    return [text[start:end] for start, end in secrets(text)]


@pytest.mark.parametrize("kind", ISSUED)
@pytest.mark.parametrize("around", ["{}", "use {} now", '"{}",', "key:\n{}\n", "（{}）"])
def test_a_key_is_found_whole_wherever_it_stands(kind: str, around: str) -> None:
    assert ISSUED[kind] in found(around.format(ISSUED[kind]))


@pytest.mark.parametrize("kind", ["AWS", "GitHub", "Google", "Hugging Face"])
def test_a_longer_word_is_no_key(kind: str) -> None:
    key = ISSUED[kind]
    for text in (f"x{key}", f"{key[:-1]}", key[:4] + key[4:].replace(key[8], "§")):
        assert key not in found(text)
        assert found(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("password = Tr0ub4dor&3x", "Tr0ub4dor&3x"),
        ("the password is Tr0ub4dor&3x.", "Tr0ub4dor&3x"),
        ('{"api_key": "' + drawn(24) + '"}', drawn(24)),
        ("密码是Xk9!pQ2#vL", "Xk9!pQ2#vL"),
        ("Authorization: Bearer " + drawn(30), drawn(30)),
        ("Authorization: Basic " + drawn(24), drawn(24)),
        ("postgres://me:s3cr3t@db.example.org/x", "me:s3cr3t@db.example.org"),
    ],
)
def test_of_what_is_assigned_only_the_value(text: str, value: str) -> None:
    assert value in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "password = your_password_here",
        "password = ********",
        "password: <insert yours>",
        "token = get_token(user)",
        "secret_key = SECRET_KEY_NAME",
        "the key is somewhere in the house",
        "sk-learn-is-a-library-for-python",
        "Bearer of good news and of bad ones",
        "https://example.org:8080/a@b",
        "a password is short",
    ],
)
def test_what_only_looks_like_one(text: str) -> None:
    assert found(text) == []


def test_a_private_key_is_found_with_its_lines_and_also_cut_off() -> None:
    lines = "\n".join(drawn(64, LETTERS + "+/", seed) for seed in range(6))
    begin, end = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
    assert found(f"so:\n{begin}\n{lines}\n{end}\nthat is it") == [f"{begin}\n{lines}\n{end}"]
    (cut,) = found(f"so:\n{begin}\n{lines}")
    assert cut.endswith(lines[-64:])
    assert found("-----BEGIN PUBLIC KEY-----\n" + lines) == []
