"""What a chat template may cost: it is a program of somebody else's."""

from __future__ import annotations

import json

import pytest

from raysft.data.records import Conversation, Message
from raysft.data.text import sandbox
from raysft.data.text.chat import render
from raysft.data.text.template import Template, resolve_template
from raysft.errors import DataError

BOMBS = {
    "product": "{{ 'A' * 2000000000 }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "indent of JSON": "{{ messages | tojson(indent=2000000000) }}",
    "indent": "{{ 'a' | indent(2000000000, true) }}",
    "method": "{{ 'a'.ljust(2000000000) }}",
    "doubling": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "width": "{{ '%2000000000d' % 1 }}",
    "format": "{{ '{:>2000000000}'.format(1) }}",
    "macros": "{% macro f(n) %}{{ (f(n-1) ~ f(n-1)) if n else 0 }}{% endmacro %}{{ f(60) }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_without_an_end_is_refused_before_it_is_used(name, tmp_path):
    (tmp_path / "own.jinja").write_text(BOMBS[name])
    with pytest.raises(DataError) as raised:
        resolve_template(str(tmp_path / "own.jinja"), None)
    assert "takes too long or too much memory" in str(raised.value)
    assert "built-in" in raised.value.fix


RECORD_BOMBS = {
    "loops over letters": "{% for a in messages[0].content %}{% for b in messages[0].content %}"
    "{% for c in messages[0].content %}{% endfor %}{% endfor %}{% endfor %}",
    "product of lengths": "{{ messages[0].content * (messages[0].content | length) ** 3 }}",
    "much text": "{% for a in messages[0].content %}{% for b in messages[0].content %}{{ messages[0].content }}"
    "{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("name", RECORD_BOMBS)
def test_a_record_that_makes_a_template_go_on_is_refused(name):
    talk = Conversation(1, (Message("user", "abcdefghij" * 60), Message("assistant", "b")))
    found = render(talk, Template("own", RECORD_BOMBS[name] + "{% generation %}b{% endgeneration %}"))
    assert found.reason == "template_refused"
    assert "own: the template" in found.detail


def test_long_conversations_are_no_bombs():
    talk = Conversation(1, tuple(Message(("user", "assistant")[i % 2], f"turn {i}") for i in range(3000)))
    template = resolve_template("chatml", None)
    assert len(render(talk, template).answers) == 1500


def test_products_that_templates_need_are_allowed():
    source = "{{ '-' * 30 }}{{ 7 % 3 }}{{ '%s' % 'x' }}{{ 2 ** 8 }}{% generation %}b{% endgeneration %}"
    talk = Conversation(1, (Message("user", ""), Message("assistant", "b")))
    assert render(talk, Template("own", source)).text == "-" * 30 + "1x256b"


def test_a_rehearsal_lets_a_template_refuse(tmp_path):
    (tmp_path / "own.jinja").write_text("{{ raise_exception('only with documents') }}")
    assert resolve_template(str(tmp_path / "own.jinja"), None).name == "own.jinja"


def test_json_may_be_indented():
    assert sandbox.to_json({"a": 1}, indent=4) == json.dumps({"a": 1}, indent=4)
