"""What a key's name says of its value: that it describes the record, or changes what is trained. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

REASONING = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "chain_of_thought", "cot")
"""Keys of a turn, or columns beside an answer, that hold what was thought before it."""
LOSS_FLAGS = ("train", "training", "trainable", "loss", "loss_mask", "weight", "loss_weight", "loss_scale")
"""Keys of a turn that say whether it is trained: Axolotl, verl, ms-swift, OpenAI, LLaMA-Factory."""

_MEANING = {
    "reasoning": (*REASONING, "think", "rationale", "analysis", "scratchpad", "reasoning_details"),
    "system prompt": ("system", "system_prompt", "system_message", "system_instruction", "developer", "persona"),
    "tools": ("tools", "functions", "tool", "available_tools", "tool_definitions", "function_definitions", "apis"),
    "tool calls": ("tool_calls", "tool_call", "function_call", "function_calls", "tool_outputs", "tool_responses"),
    "loss flag": (
        *(*LOSS_FLAGS, "train_detail", "training_detail", "sample_weight", "completion_mask", "assistant_mask"),
        *("assistant_masks", "prompt_mask", "mask", "labels", "kto_tag"),
    ),
    "channel": ("channel", "channels", "recipient"),
    "documents": (
        "documents",
        "document",
        "context",
        "contexts",
        "passages",
        "passage",
        "search_results",
    ),
    "several answers": (
        *("responses", "completions", "candidates", "outputs", "chosen", "rejected", "rejected_response"),
        *("rejected_responses", "alternatives", "choices", "replies"),
    ),
    "template setting": ("chat_template_kwargs", "enable_thinking", "chat_template", "reasoning_effort"),
    "media": ("image", "images", "video", "videos", "audio", "audios", "image_url", "input_audio"),
    "refusal": ("refusal",),
    "earlier turns": ("history",),
}
"""What changes the text that is trained, or what of it is trained."""
_KIND = {name: kind for kind, names in _MEANING.items() for name in names}
_TOKENS = {
    **dict.fromkeys(("reasoning", "thinking", "cot", "rationale", "thought", "thoughts"), "reasoning"),
    **dict.fromkeys(("tools", "functions"), "tools"),
    **dict.fromkeys(("documents", "passages", "contexts", "context"), "documents"),
    **dict.fromkeys(("responses", "completions", "candidates", "rejected"), "several answers"),
}
"""Words that say the same at the start or the end of a longer name: `complex_cot`, `reasoning_trace`."""
_ONLY_IN_TURNS = frozenset(
    ("channel", "channels", "recipient", "mask", "persona", "choices", "tool", "refusal", "replies")
)
"""Names that mean something else beside the turns."""

_HARMLESS = frozenset(
    (
        *("source", "sources", "dataset", "datasets", "origin", "provenance", "license", "config", "split", "subset"),
        *("author", "authors", "annotator", "generator", "model", "version", "revision", "created", "updated"),
        *("modified", "lang", "language", "locale", "category", "categories", "subcategory", "topic", "topics"),
        *("tag", "tags", "domain", "subdomain", "subject", "task", "tasks", "type", "difficulty", "level", "grade"),
        *("quality", "rating", "ratings", "rank", "complexity", "toxicity", "safety", "perplexity", "usage"),
        *("meta", "metadata", "info", "encoding", "file", "path", "filename", "annotations", "cache_control"),
        *("signature", "logprobs", "finish_reason", "stop_reason", "parallel_tool_calls", "tool_choice", "status"),
    )
)
"""Names that describe a record."""
_TAILS = frozenset(
    (
        *(
            "model",
            "models",
            "id",
            "ids",
            "idx",
            "index",
            "uuid",
            "guid",
            "hash",
            "md5",
            "sha",
            "sha1",
            "sha256",
            "fingerprint",
        ),
        *("url", "urls", "uri", "link", "links", "path", "file", "source", "version", "license", "type"),
        *("score", "scores", "count", "counts", "num", "number", "length", "len", "size", "tokens", "rating", "ppl"),
        *(
            "model",
            "models",
            "prob",
            "probability",
            "date",
            "time",
            "timestamp",
            "timestamps",
            "at",
            "language",
            "lang",
            "category",
        ),
    )
)
"""Last words of such names: `prompt_id`, `created_at`."""
_HEADS = frozenset(
    ("id", "num", "n", "score", "scores", "token", "tokens", "len", "length", "meta", "metadata", "unnamed")
)
"""First words of such names: `num_turns`, `score_chosen`."""
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


@lru_cache(maxsize=4096)
def describes(key: str) -> bool:
    """Is a column of that name, beside what a format reads, harmless and without meaning for the training?"""
    return meaning_of(key, inside=False) is None and is_harmless(key)


@lru_cache(maxsize=4096)
def is_harmless(key: str) -> bool:
    """Does the name say that the value describes the record?"""
    words = _words(key)
    if key.startswith("__") or not key.strip():
        return True
    return bool(words) and ("_".join(words) in _HARMLESS or words[-1] in _TAILS or words[0] in _HEADS)


@lru_cache(maxsize=4096)
def meaning_of(key: str, *, inside: bool = True) -> str | None:
    """What kind of thing that changes the training the name stands for, if it does."""
    words = _words(key)
    name = "_".join(words)
    if not inside and name in _ONLY_IN_TURNS:
        return None
    if kind := _KIND.get(name):
        return kind
    if len(words) < 2 or words[-1] in _TAILS or words[0] in _HEADS:
        return None
    return _TOKENS.get(words[0]) or _TOKENS.get(words[-1])


_TRAINS = frozenset(
    ("train", "trained", "trainable", "training", "learn", "learned", "loss", "supervised", "supervise")
)
_LEAVES_OUT = frozenset(
    ("ignore", "ignored", "mask", "masked", "skip", "skipped", "exclude", "excluded", "delete", "deleted")
)
_NOT = frozenset(("no", "not", "non", "without", "dont", "never"))


def leaves_out(key: str, value: object) -> bool:
    """Does a flag of a turn say that it is not trained, in any words: `ignore: true`, `compute_loss: false`?"""
    if not isinstance(value, bool | int) or value not in (0, 1):
        return False
    words = frozenset(_words(key))
    if words & _LEAVES_OUT or (words & _NOT and words & _TRAINS):
        return bool(value)
    return bool(words & _TRAINS) and not value


@lru_cache(maxsize=4096)
def _words(key: str) -> tuple[str, ...]:
    """`Complex_CoT`, `complexCot` -> words in lower case."""
    found = tuple(word.lower() for word in _WORDS.findall(key))
    return (*found[:-2], "cot") if found[-2:] == ("co", "t") else found
