"""Answers with their references, made up: English and Chinese, right, nearly right, empty, and of another kind."""

from __future__ import annotations

import random

from raysft.metrics.base import Answer

ENGLISH = [
    *(
        "the",
        "a",
        "an",
        "of",
        "to",
        "is",
        "it",
        "for",
        "as",
        "model",
        "data",
        "river's",
        "café",
        "don't",
        "3.5",
        "1,000",
    ),
    *("running", "runs", "Ran", "quickly", "station", "trains", "Beijing", "½", "e.g.", "(sometimes)", "well-known"),
    *("“quoted”", "U.S.", "reverse", "LETTERS", "green", "bridge", "old", "bridges"),
]
CHINESE = "今天天气很好我们去公园散步模型训练数据的了是在，。！？《》“”一二三GPU１２3.5元"


def pairs(language: str, count: int = 200, seed: int = 0) -> list[Answer]:
    """Made up with a seed: every tenth answer is right, every thirtieth is empty."""
    dice = random.Random(f"{language} {seed}")
    glue, stock = ("", list(CHINESE)) if language == "zh" else (" ", ENGLISH)
    found = []
    for number in range(count):
        wanted = dice.choices(stock, k=dice.randint(1, 40))
        said = [word for word in wanted if dice.random() > 0.2] + dice.choices(stock, k=dice.randint(0, 6))
        if dice.random() < 0.5 and len(said) > 4:
            cut = dice.randrange(len(said))
            said = said[cut:] + said[:cut]
        said = wanted if number % 10 == 0 else [] if number % 30 == 7 else said
        found.append(Answer(f"q{number}", glue.join(said), glue.join(wanted)))
    return found
