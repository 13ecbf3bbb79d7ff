"""Tables for notebooks: escaped, in words, as frames."""

from __future__ import annotations

import sys

import pytest
from html_page import EVIL, Reader

from raysft.api.tables import frame, shown, table_html
from raysft.errors import UserError


def test_a_frame_needs_pandas_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"a": 1, "b": None}, {"a": 2, "b": 0.5}]
    pandas = pytest.importorskip("pandas")
    assert list(frame(records)["a"]) == [1, 2]
    assert isinstance(frame(records), pandas.DataFrame)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="needs pandas"):
        frame(records)


def test_a_table_escapes_every_text() -> None:
    page = table_html(EVIL, [EVIL], [[EVIL, 1, 0.123456789, None, True]], marked=0)
    assert Reader(page).tags == {"table", "caption", "thead", "tr", "th", "tbody", "td"}
    assert page.count("&lt;script&gt;") == 3
    assert [shown(value) for value in (1234567, 0.123456789, None, True, False)] == [
        "1,234,567",
        "0.123457",
        "",
        "yes",
        "no",
    ]
