"""The page over all runs: what stands in a row."""

from __future__ import annotations

from dataclasses import replace

from html_page import Page

from raysft.observe.live import RunRow, render_home, render_sweep

EVIL = "<script>x</script>"
ROW = RunRow("a", "running", 40, 160, 1.25, 1.5, 2048.0, 1000.0, 90.0, 2, [(1.0, 2.0), (40.0, 1.25)])


def test_a_row_tells_how_far_a_run_is() -> None:
    html = render_home("s3://bucket", [ROW], [], now=1012.0)
    page = Page(html)
    assert "a running 40 of 160 1.25 1.5 2,048 1 min 30 s 12.0 s ago 2" in page.text
    assert '<progress max="160" value="40">' in html
    assert '<path class="run c0"' in html
    empty = RunRow(EVIL, "failed", 0, 0, None, None, None, 0.0, None, 0, [])
    page = Page(render_home(EVIL, [empty], [], now=0.0))
    assert "failed - - - - - - 0" in page.text
    assert "script" not in page.tags


def test_trials_stand_by_their_loss() -> None:
    trials = [replace(ROW, name=name, held_out=loss) for name, loss in (("x", None), ("y", 2.0), ("z", 1.0))]
    page = Page(render_sweep("s", "search", trials, now=1000.0))
    links = [value for name, value in page.attributes if name == "href"]
    assert links == ["/", "/runs/z", "/runs/y", "/runs/x"]
