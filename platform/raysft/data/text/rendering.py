"""Chat templates at work: Conversation -> text and the regions of it that the assistant says. Pure.

Plain text has no template. Templates are template.py, what they write writing.py, where the regions lie regions.py,
what a template left out omissions.py. Which regions are trained, and tokens, are chat.py.
"""

from __future__ import annotations

from typing import NamedTuple

from raysft.data.records import Conversation, Refusal
from raysft.data.text.offsets import Span
from raysft.data.text.regions import Region, find_regions
from raysft.data.text.sandbox import TEMPLATE_ERRORS
from raysft.data.text.template import BUILT_IN, SpecialTokens, Template, resolve_template
from raysft.data.text.writing import holds_marks, special_tokens_in, without_special_tokens
from raysft.errors import DataError

__all__ = [
    "BUILT_IN",
    "Rendered",
    "SpecialTokens",
    "Template",
    "render",
    "render_last",
    "render_prompt",
    "resolve_template",
    "special_tokens_in",
]


class Rendered(NamedTuple):
    """The whole text of a conversation, and what of it the assistant says, turn by turn."""

    text: str
    regions: tuple[Region, ...]

    @property
    def answers(self) -> tuple[Span, ...]:
        """The regions as spans of characters."""
        return tuple((region.start, region.end) for region in self.regions)


def render(conversation: Conversation, template: Template) -> Rendered | Refusal:
    """The conversation's whole text and where its answers lie in it.

    Plain text is itself, and the end of text where it does not end in a token that generation stops at.
    """
    messages = conversation.messages
    if len(messages) == 1 and messages[0].role == "text":
        return _plain_text(messages[0].content, template.special_tokens)
    template = template.for_record(conversation)
    if holds_marks(conversation):
        return Refusal("reserved_character", "the text holds U+FDD0 to U+FDD3, which Unicode reserves")
    try:
        found = find_regions(template, conversation)
    except TEMPLATE_ERRORS as error:
        return Refusal("template_refused", f"{template.name}: {error}")
    if found is None:
        return Refusal(
            "cannot_be_masked",
            f"the template {template.name!r} cannot be masked: its answers are not found in what it writes, it "
            f"rewrites or drops turns; set data.template to a built-in ({', '.join(BUILT_IN)}), or put a "
            "{% generation %} block around each answer",
        )
    return Rendered(*found)


def render_prompt(conversation: Conversation, template: Template) -> str:
    """The text up to where the last answer begins: what the model sees before it generates."""
    return render_last(conversation, template)[0]


def render_last(conversation: Conversation, template: Template) -> tuple[str, str]:
    """(the prompt of the last answer, all that the model then has to say, without special tokens)."""
    rendered = render(conversation, template)
    if isinstance(rendered, Refusal) or not rendered.answers:
        detail = rendered.detail if isinstance(rendered, Refusal) else "no assistant turn in the text"
        raise DataError("a conversation cannot be rendered", got=detail, fix="use another template")
    start, end = rendered.answers[-1]
    return rendered.text[:start], without_special_tokens(rendered.text[start:end], template.special_tokens.texts)


def _plain_text(text: str, special: SpecialTokens) -> Rendered:
    ended = text.rstrip().endswith(special.stops or (special.end_of_text or "\0",))
    whole = text if ended else text + special.end_of_text
    return Rendered(whole, (Region(0, len(whole), stops=True, message=0),))
