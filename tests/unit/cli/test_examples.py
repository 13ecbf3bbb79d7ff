"""Examples in the help of verbs: of verbs that there are, with options that they take."""

from __future__ import annotations

import shlex

from raysft.cli.evaluation_parser import joined
from raysft.cli.examples import EXAMPLES, texts
from raysft.cli.parser import parser


def test_every_example_can_be_parsed() -> None:
    for name, text in EXAMPLES.items():
        for line in text.replace("\\\n", "").splitlines():
            words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])
            start = words.index("raysft")
            assert words[start + 1] == name.split()[0]
            parser().parse_args(joined(words[start + 1 :]))
        assert text in texts(name)["epilog"]
    assert texts("prepared") == {}
