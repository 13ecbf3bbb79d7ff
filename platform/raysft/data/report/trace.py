"""One record on its way to tokens, as prepare takes it, with everything kept that a person wants to see. No Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from raysft.data.formats.conversations import check_source_columns, read_raw, reading_of
from raysft.data.prepare.encode import goes_to_held_out
from raysft.data.read.sources import RawRecord, describe_line, expand, file_and_position
from raysft.data.records import Conversation, Note, Refusal
from raysft.data.rules.record.cleaner import Cleaner
from raysft.data.text.atoms import split_atom
from raysft.data.text.chat import Example
from raysft.data.text.fitting import STRADDLES, UNKNOWN
from raysft.data.text.pairs import encode_answers
from raysft.data.text.stops import recipe_template
from raysft.data.text.template import template_note
from raysft.data.text.tokenizer import recipe_tokenizer
from raysft.recipe.cleaning import AUGMENTING
from raysft.recipe.objective_traits import answers_of, categories_of
from raysft.recipe.schema import Recipe

LEARNT = {"labelled": "label: {}", "matched": "one vector"}
"""{what a record becomes: what is learnt of a sample as a whole}, where that is no token."""


@dataclass(frozen=True)
class TracedSample:
    """A sample that is kept: its tokens as (text, kind), and as they stand in the vocabulary."""

    name: str
    example: Example
    pieces: list[tuple[str, str]]
    words: list[str]
    begins_atom: bool = True
    """False: it shares a row with the sample before it, as the rejected answer does with the preferred one."""
    learnt: str = ""
    """What is learnt of it as a whole, in words; empty: its tokens, as their targets say."""

    @property
    def num_trained(self) -> int:
        return 0 if self.learnt else int(np.count_nonzero(self.example.target))

    @property
    def size(self) -> str:
        cut = ", cut to data.max_tokens" if self.example.truncated else ""
        return f"{len(self.example.input_ids)} tokens, {self.learnt or f'{self.num_trained} trained'}{cut}"


@dataclass(frozen=True)
class Traced:
    """What became of a record."""

    place: str
    samples: list[TracedSample]
    refusals: list[Refusal]
    findings: Counter[str]
    tags: tuple[str, ...]
    notes: tuple[Note, ...]
    """What of the record was not read, and what was guessed."""


class Tracer:
    """Reads records as prepare does."""

    def __init__(self, recipe: Recipe) -> None:
        data = recipe.data
        check_source_columns(data)
        self._data = data
        self._answers, self._categories = answers_of(recipe), categories_of(recipe)
        self._tokenizer = recipe_tokenizer(recipe)
        self._template = recipe_template(recipe, self._tokenizer)
        self.files = expand(data.sources, format=data.format, columns=data.columns, purpose="train")
        specials = self._template.special_tokens.texts
        plain = [rule for rule in data.rules if not isinstance(rule, AUGMENTING)]
        self._cleaners = (
            Cleaner(data.rules, seed=recipe.seed, special_tokens=specials),
            Cleaner(plain, seed=recipe.seed, special_tokens=specials),
        )

    def trace(self, raw: RawRecord) -> Traced:
        """One record through format, rules and tokenizer."""
        place = describe_line(raw.sample_id, self.files)
        file = self.files[file_and_position(raw.sample_id)[0]]
        conversations = read_raw(raw, file, reading_of(file, self._data, self._answers, self._categories))
        if isinstance(conversations, Refusal):
            return Traced(place, [], [conversations], Counter(), (), ())
        held_out = not self._data.eval and goes_to_held_out(conversations[0], self._data.eval_fraction)
        if held_out:
            place += " (held out)"
        cleaned = [self._cleaners[held_out].apply(conversation) for conversation in conversations]
        refusals = [one.refusal for one in cleaned if one.refusal]
        kept_ones = [kept for one in cleaned for kept in one.conversations]
        samples: list[TracedSample] = []
        for number, kept in enumerate(kept_ones, 1):
            of = f"sample {number} of {len(kept_ones)}, " if len(kept_ones) > 1 else ""
            found = self._samples(kept, f"{place}, {of}" if of else f"{place} ")
            if isinstance(found, Refusal):
                refusals.append(found)
            else:
                samples += found
        notes = conversations[0].notes
        if self._template.with_tools is not None:
            notes += (template_note(self._template, conversations[0]),)
        tags = tuple(dict.fromkeys(tag for kept in kept_ones for tag in kept.tags))
        findings = Counter(finding for one in cleaned for finding in one.findings)
        return Traced(place, samples, refusals, findings, tags, notes)

    def _samples(self, conversation: Conversation, name: str) -> list[TracedSample] | Refusal:
        (result,) = encode_answers(
            [conversation],
            self._tokenizer,
            self._template,
            self._answers,
            train_on=self._data.train_on,
            max_tokens=self._data.max_tokens,
            over_long=self._data.over_long,
            stop=self._data.stop,
            categories=self._categories,
        )
        if isinstance(result, Refusal):
            return result
        samples = []
        for number, whole in enumerate(result, 1):
            part = f"{name}part {number} of {len(result)}: " if len(result) > 1 else name
            for place, (side, example) in enumerate(split_atom(whole)):
                title = f"{name.rstrip(', ')}, {side}: " if side else part
                learnt = LEARNT.get(self._answers, "").format(", ".join((conversation.label or "none").splitlines()))
                texts = list(token_texts(self._tokenizer, example))
                if learnt:
                    texts = [(text, "plain" if kind == "trained" else kind) for text, kind in texts]
                words = [str(self._tokenizer.convert_ids_to_tokens(index)) for index in example.input_ids.tolist()]
                samples.append(TracedSample(title, example, texts, words, place == 0, learnt))
        return samples


def token_kind(weight: float, flags: int) -> str:
    """`straddling` (over a border), `unknown` (letters that the tokenizer lacks), `trained` or `plain`."""
    doubt = "unknown" if flags & UNKNOWN else "straddling" if flags & STRADDLES else ""
    return doubt or ("trained" if weight else "plain")


def token_texts(tokenizer: PreTrainedTokenizerFast, example: Example) -> Iterator[tuple[str, str]]:
    """(text, kind) of each of the example's tokens as it is decoded; those that share a character are one."""
    stream = DecodeStream(skip_special_tokens=False)
    backend = tokenizer.backend_tokenizer
    pending = False
    for index, weight, flags in zip(
        example.input_ids.tolist(), example.target.tolist(), example.flags.tolist(), strict=True
    ):
        kind = token_kind(weight, flags)
        text = stream.step(backend, index)
        pending = text is None
        if text is not None:
            yield text, kind
    if pending:
        yield "\N{REPLACEMENT CHARACTER}", kind
