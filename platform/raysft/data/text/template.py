"""Chat templates as values: a name, a Jinja text, the tokenizer's special tokens. Which one a recipe's name means.

Built-in templates are in templates/. What a template writes, and where, is rendering.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from raysft.data.records import Conversation, Note
from raysft.data.text.sandbox import GENERATION, compile_template, rehearse_template
from raysft.errors import DataError

BUILT_IN = ("chatml", "gemma", "llama3", "mistral", "qwen3", "zephyr")
_FOLDER = Path(__file__).parent / "templates"
_DEFAULT, _TOOLS = "default", "tool_use"


@dataclass(frozen=True)
class SpecialTokens:
    """A tokenizer's tokens that stand apart from text."""

    named: tuple[tuple[str, str], ...] = ()
    """(`bos_token`, text)...: what templates may write by name."""
    texts: tuple[str, ...] = ()
    """Texts of all special tokens."""
    added: tuple[str, ...] = ()
    """Texts of all added tokens, also of those that are not flagged special: each is one token wherever it stands."""
    stops: tuple[str, ...] = ()
    """Texts that generation stops at: the end of text, and what the model's `generation_config` names."""

    @cached_property
    def by_name(self) -> dict[str, str]:
        """`named`, to be looked up."""
        return dict(self.named)

    @property
    def end_of_text(self) -> str:
        """The text of `eos_token`; empty: the tokenizer has none."""
        return self.by_name.get("eos_token", "")


@dataclass(frozen=True)
class Template:
    """A chat template: its name, its Jinja text and the special tokens that it may write."""

    name: str
    text: str
    special_tokens: SpecialTokens = SpecialTokens()
    with_tools: Template | None = None
    """The one that a record with tools is written by, where the tokenizer has one (`tool_use`)."""

    def __hash__(self) -> int:
        return hash(self.text)  # asked for with every record; strings remember theirs

    @cached_property
    def has_generation_blocks(self) -> bool:
        """Does it say itself, by `{% generation %}`, what the assistant writes?"""
        return bool(GENERATION.search(self.text))

    def for_record(self, conversation: Conversation) -> Template:
        """The template of this record, chosen as transformers does: by whether it has tools."""
        return self.with_tools if self.with_tools is not None and conversation.tools else self


def template_note(template: Template, conversation: Conversation) -> Note:
    """Which of a tokenizer's several templates writes a record."""
    return Note("guess", f"written by the tokenizer's template `{template.for_record(conversation).name}`")


def resolve_template(
    name: str,
    tokenizer_template: str | Mapping[str, str] | None,
    special_tokens: SpecialTokens = SpecialTokens(),
) -> Template:
    """`tokenizer`: the tokenizer's own; one of its named templates; a built-in name; or the path of a Jinja file.

    tokenizer_template: the tokenizer's `chat_template`, by name where it has several. Raises DataError for what is
    not Jinja, and for a template that does not come to an end.
    """
    named = tokenizer_template if isinstance(tokenizer_template, Mapping) else {}
    if name == "tokenizer":
        template = _own(tokenizer_template, special_tokens)
    elif name in BUILT_IN:
        return Template(name, (_FOLDER / f"{name}.jinja").read_text("utf-8"), special_tokens)
    elif name in named:
        template = Template(name, named[name], special_tokens)
    elif Path(name).expanduser().is_file():
        template = Template(Path(name).name, Path(name).expanduser().read_text("utf-8"), special_tokens)
    else:
        known = (*BUILT_IN, *named)
        near = difflib.get_close_matches(name, known, n=1)
        raise DataError(
            f"there is no chat template {name!r}",
            got=name,
            expected=f"`tokenizer`, one of {', '.join(known)}, or the path of a Jinja file",
            fix=f"did you mean {near[0]!r}?" if near else "check the name or the path",
        )
    for one in (template, template.with_tools):
        if one is not None:
            if one.text not in _built_in_texts():
                rehearse_template(one.name, one.text, one.special_tokens.named)
            compile_template(one.text)  # after its rehearsal: jinja works out constants here
    return template


@lru_cache(maxsize=1)
def _built_in_texts() -> frozenset[str]:
    return frozenset(path.read_text("utf-8") for path in _FOLDER.glob("*.jinja"))


def _own(found: str | Mapping[str, str] | None, special_tokens: SpecialTokens) -> Template:
    """The tokenizer's template, or its `default` with its `tool_use` beside it."""
    if isinstance(found, str) and found:
        return Template("tokenizer", found, special_tokens)
    if not found:
        raise DataError(
            "the tokenizer has no chat template of its own",
            got="data.template: tokenizer",
            expected="a tokenizer with a chat_template",
            fix=f"set data.template to a built-in ({', '.join(BUILT_IN)}) or the path of a Jinja file",
        )
    assert isinstance(found, Mapping)
    if _DEFAULT not in found:
        raise DataError(
            "the tokenizer has several chat templates, none of them the default",
            got=", ".join(sorted(found)),
            expected=f"one named `{_DEFAULT}`, as transformers asks for",
            fix=f"name one of them in data.template, for example data.template: {min(found)}",
        )
    tools = Template(_TOOLS, found[_TOOLS], special_tokens) if _TOOLS in found else None
    return Template(_DEFAULT, found[_DEFAULT], special_tokens, tools)
