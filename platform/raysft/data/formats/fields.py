"""The names of the columns that each record format may read. Pure."""

from __future__ import annotations

from raysft.data.formats.names import REASONING
from raysft.data.formats.turns import TURN_NAMES

TURNS = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", *TURNS, "question", "query", "instruction")
RESPONSES = ("responses", "candidates", "answers", "completions")
ANSWERS = ("completion", "response", *RESPONSES)
CHOSEN, REJECTED = "chosen", "rejected"
OTHER_ENDS = ("rejected_response", "rejected_messages")
"""The rejected answer beside a talk that ends with the preferred one (ms-swift)."""
ANSWER_TEXTS = ("text", "content", "response", "answer")
SCORES = {"scores": ("score", "overall_score"), "ranks": ("rank",)}
"""Columns of numbers beside several answers, and the keys of one in each answer; ranks count from the best on."""
WANTED = ("label", "kto_tag")
"""Whether an answer is a good one: TRL's and ms-swift's name, LLaMA-Factory's."""
PAIRED_TEXTS = {
    "text": "text2",
    "sentence1": "sentence2",
    "sentence": "question",
    "premise": "hypothesis",
    "question1": "question2",
}
"""{column of a labelled text: the one beside it, if there is one}; the names of GLUE's sets."""
LABELS = ("label", "labels")
JUDGED = ("noisy_answer", "response", "answer")
PROBLEMS = ("prompt", "instruction", "question", "text")
TESTS = ("test", "tests", "test_list")
SOLUTIONS = ("canonical_solution", "code", "challenge_test_list")
"""Columns of problems with tests that nobody reads: neither the model nor the tests may see them."""
ANCHORS = ("anchor", "query", "question", "sentence1")
POSITIVES = ("positive", "pos", "sentence2", "answer", "document", "passage")
NEGATIVES = ("negative", "negatives", "neg", "hard_negatives", *(f"negative_{number}" for number in range(1, 33)))

FIELDS = {
    "alpaca": ("instruction", "input", "output", "system", "history", "tools", *REASONING),
    "unified": ("instruction", "input", "output", "system", "history", "tools", "metadata", *REASONING),
    "sharegpt": (*TURNS, "system", "tools", "functions"),
    "messages": (*TURNS, "system", "tools", "functions"),
    "completion": (*PROMPTS, "input", "system", "tools", "functions", "history", *ANSWERS, *REASONING, *WANTED),
    "preference": (
        *PROMPTS,
        "input",
        "system",
        "tools",
        "functions",
        "history",
        CHOSEN,
        REJECTED,
        *OTHER_ENDS,
        "response",
    ),
    "ranking": (*PROMPTS, "input", "system", "tools", "functions", "history", *RESPONSES, *SCORES),
    "critique": ("question", "instruction", "input", "system", *JUDGED, "critique"),
    "labelled": (*PAIRED_TEXTS, *PAIRED_TEXTS.values(), *LABELS, "label_text", "system"),
    "tested": (*PROBLEMS, *TESTS, "entry_point", "test_imports", "test_setup_code", "system", *SOLUTIONS),
    "matched": (*ANCHORS, *POSITIVES, *NEGATIVES),
    "text": ("text", "content"),
}
"""The columns that each format may read; the other scalar columns describe the record."""
WITH_TURNS = ("sharegpt", "messages", "completion", "preference", "ranking")
"""Formats in whose turns data.columns may map the keys as well."""


def names_of(format: str) -> frozenset[str]:
    """Every name of the format that data.columns may map."""
    return frozenset((*FIELDS[format], *(TURN_NAMES if format in WITH_TURNS else ())))
