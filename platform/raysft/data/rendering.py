"""Chat templates: Conversation -> text and the character spans of its answers. Pure.

Owns the templates (built-in ones are in templates/) and how the answers' spans are found: by the template's
generation blocks, or by marks put around the answers. Templates run in sandbox.py; plain text has none. Which spans
are trained, and tokens, are chat.py.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2.runtime import Context

from raysft.data.offsets import Span
from raysft.data.records import Conversation, Message, Refusal
from raysft.data.sandbox import CLOSE, OPEN, TEMPLATE_ERRORS, compile_template, to_json
from raysft.errors import DataError

BUILT_IN = ("chatml", "gemma", "llama3", "mistral", "qwen3", "zephyr")
_FOLDER = Path(__file__).parent / "templates"

_MARKS = re.compile(f"([{OPEN}{CLOSE}])")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class SpecialTokens:
    """A tokenizer's special tokens: by name (`bos_token`...), for templates, and all of their texts."""

    named: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """A chat template: its name, its Jinja text and the special tokens that it may write."""

    name: str
    text: str
    special_tokens: SpecialTokens = SpecialTokens()

    @property
    def has_generation_blocks(self) -> bool:
        return _has_generation_blocks(self.text)


@dataclass(frozen=True)
class Rendered:
    """The whole text of a conversation. `answers`: the span of each assistant turn's text and end-of-turn."""

    text: str
    answers: tuple[Span, ...]


def resolve_template(
    name: str, tokenizer_template: str | None, special_tokens: SpecialTokens = SpecialTokens()
) -> Template:
    """`tokenizer`: the tokenizer's own; a built-in name; or the path of a Jinja file. Compiled to check it."""
    if name == "tokenizer":
        if not tokenizer_template:
            raise DataError(
                "the tokenizer has no chat template of its own",
                got="data.template: tokenizer",
                expected="a tokenizer with a chat_template",
                fix=f"set data.template to a built-in ({', '.join(BUILT_IN)}) or the path of a Jinja file",
            )
        template = Template(name, tokenizer_template, special_tokens)
    elif name in BUILT_IN:
        template = Template(name, (_FOLDER / f"{name}.jinja").read_text("utf-8"), special_tokens)
    elif Path(name).expanduser().is_file():
        template = Template(Path(name).name, Path(name).expanduser().read_text("utf-8"), special_tokens)
    else:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        raise DataError(
            f"there is no chat template {name!r}",
            got=name,
            expected=f"`tokenizer`, one of {', '.join(BUILT_IN)}, or the path of a Jinja file",
            fix=f"did you mean {near[0]!r}?" if near else "check the name or the path",
        )
    compile_template(template.text)
    return template


def render(conversation: Conversation, template: Template) -> Rendered | Refusal:
    """The conversation's whole text and where its answers lie in it. Plain text is itself and the end of text."""
    messages = conversation.messages
    if len(messages) == 1 and messages[0].role == "text":
        text = messages[0].content + dict(template.special_tokens.named).get("eos_token", "")
        return Rendered(text, ((0, len(text)),))
    try:
        if _holds_marks(conversation):
            return Refusal("reserved_character", "the text holds U+FDD0 or U+FDD1, which Unicode reserves")
        if template.has_generation_blocks:
            rendered = _unmark(_run(template, conversation, messages))
            if rendered is None:
                return _cannot_be_masked(template, "generation blocks inside generation blocks")
            return rendered
        return _render_with_sentinels(template, conversation)
    except TEMPLATE_ERRORS as error:
        return Refusal("template_refused", f"{template.name}: {error}")


def render_prompt(conversation: Conversation, template: Template) -> str:
    """The text up to where the last answer begins: what the model sees before it generates."""
    rendered = render(conversation, template)
    if isinstance(rendered, Refusal) or not rendered.answers:
        detail = rendered.detail if isinstance(rendered, Refusal) else "no assistant turn in the text"
        raise DataError("a conversation cannot be rendered", got=detail, fix="use another template")
    return rendered.text[: rendered.answers[-1][0]]


@lru_cache(maxsize=128)
def _special_pattern(specials: tuple[str, ...]) -> re.Pattern[str] | None:
    texts = sorted(filter(None, specials), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def special_tokens_in(conversation: Conversation, specials: Sequence[str]) -> str | None:
    """The first special token written in the conversation's own text: a tokenizer would read it as the control."""
    pattern = _special_pattern(tuple(specials))
    if pattern is None:
        return None
    for text in _own_texts(conversation):
        if found := pattern.search(text):
            return found[0]
    return None


def _own_texts(conversation: Conversation) -> Iterator[str]:
    """Everything that a template may write of a conversation, but for its roles."""
    for message in conversation.messages:
        yield message.content
        if message.reasoning:
            yield message.reasoning
        if message.name:
            yield message.name
        if message.tool_calls:
            yield to_json(message.tool_calls)
        if message.tool_call_id:
            yield message.tool_call_id
    if conversation.tools:
        yield to_json(conversation.tools)


def _holds_marks(conversation: Conversation) -> bool:
    return any(OPEN in text or CLOSE in text for text in _own_texts(conversation))


@lru_cache(maxsize=32)
def _has_generation_blocks(text: str) -> bool:
    return bool(_GENERATION.search(text))


@lru_cache(maxsize=32)
def _constants(text: str) -> dict[str, Any]:
    """What every template sees. Asked of jinja2 once: it looks its globals up slowly."""
    return {**compile_template(text).globals, "add_generation_prompt": False}


def _run(template: Template, conversation: Conversation, messages: Sequence[Message]) -> list[str]:
    """What the template writes, in pieces."""
    compiled = compile_template(template.text)
    variables = _constants(template.text).copy()
    variables.update(template.special_tokens.named)
    variables["messages"] = [_as_dict(message) for message in messages]
    variables["tools"] = list(conversation.tools) or None
    context = Context(compiled.environment, variables, compiled.name, compiled.blocks)
    return list(compiled.root_render_func(context))


def _as_dict(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = list(message.tool_calls)
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    if message.reasoning:
        found["reasoning_content"] = found["thinking"] = message.reasoning
    if message.name:
        found["name"] = message.name
    return found


def _unmark(written: Sequence[str]) -> Rendered | None:
    """Take the marks out of what a template wrote and note where they were. None: they do not come in pairs.

    Generation blocks mostly write their marks apart, so that the text is joined without them: a string that holds
    one takes two bytes a character.
    """
    pieces: list[str] = []
    spans: list[Span] = []
    start, length = -1, 0
    for piece in written:
        for part in (piece,) if piece.isascii() or len(piece) == 1 else _MARKS.split(piece):
            if part == OPEN:
                if start >= 0:
                    return None
                start = length
            elif part == CLOSE:
                if start < 0:
                    return None
                spans.append((start, length))
                start = -1
            else:
                pieces.append(part)
                length += len(part)
    return Rendered("".join(pieces), tuple(spans)) if start < 0 else None


def _render_with_sentinels(template: Template, conversation: Conversation) -> Rendered | Refusal:
    """For a template without generation blocks: mark each answer's text, render again, see where it came out.

    Marks go around the whole text first; a template that trims its turns changes that text, so then around
    the text without outer white space. If neither leaves the plain text, the template rewrites turns.
    """
    plain = "".join(_run(template, conversation, conversation.messages))
    if any(message.tool_calls for message in conversation.messages):
        return Refusal("tool_calls_not_maskable", f"{template.name} has no generation blocks around its calls")
    answers = [message for message in conversation.messages if message.role == "assistant" and message.content]
    for trimmed in (False, True):
        marked = [_with_marks(message, trimmed) for message in conversation.messages]
        rendered = _unmark(_run(template, conversation, marked))
        if rendered and rendered.text == plain and len(rendered.answers) == len(answers):
            ends = [_after_special_token(plain, end, template.special_tokens) for _, end in rendered.answers]
            starts = [start for start, _ in rendered.answers]
            return Rendered(plain, tuple(zip(starts, ends, strict=True)))
    return _cannot_be_masked(template, "no generation blocks, and answers that cannot be found in its text")


def _cannot_be_masked(template: Template, got: str) -> Refusal:
    return Refusal(
        "cannot_be_masked",
        f"the template {template.name!r} cannot be masked: it rewrites or drops assistant turns ({got}); set "
        f"data.template to a built-in ({', '.join(BUILT_IN)}), or put a {{% generation %}} block around each answer",
    )


def _with_marks(message: Message, trimmed: bool) -> Message:
    if message.role != "assistant" or not message.content:
        return message
    core = message.content.strip() if trimmed else message.content
    before, _, after = message.content.partition(core) if core else (message.content, "", "")
    return replace(message, content=f"{before}{OPEN}{core}{CLOSE}{after}")


def _after_special_token(text: str, end: int, special: SpecialTokens) -> int:
    """The end of the special token that follows directly (the end of turn), or `end`."""
    found = [token for token in special.texts if token and text.startswith(token, end)]
    return end + len(max(found, key=len)) if found else end
