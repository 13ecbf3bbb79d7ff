"""A model that is ready to answer: with its tokenizer, the template of its training, and where answers end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from raysft import storage
from raysft.data.formats.prompts import ANSWER
from raysft.data.records import Conversation, Message
from raysft.data.text.rendering import render_prompt
from raysft.data.text.template import Template
from raysft.data.text.tokenizer import chat_template, template_for
from raysft.errors import ModelError
from raysft.evaluate.exported import load_exported, model_directory
from raysft.evaluate.generation import TransformersGenerator


@dataclass(frozen=True)
class ReadyModel:
    """Answers questions. On a GPU where torch sees one."""

    name: str
    """In a few words, for a person."""
    identity: str
    """A hash that other weights, or another template, change."""
    generator: TransformersGenerator
    template: Template | None
    """None: the tokenizer has none."""

    def prompt(self, question: Conversation) -> str:
        """The text that the model goes on from. question: ends in a stand-in for the answer (formats/prompts.py).

        Raises ModelError without a template, DataError where the template refuses the question.
        """
        if self.template is None:
            raise ModelError(
                f"{self.name} has no chat template",
                got="a tokenizer without one",
                expected="the template of its turns",
                fix="`raysft generate --raw` gives the model each text as it is",
            )
        return render_prompt(question, self.template)

    def chat_prompt(self, turns: Sequence[tuple[str, str]]) -> str:
        """As prompt(), of (role, content) turns."""
        messages = tuple(Message(role, content) for role, content in turns)
        return self.prompt(Conversation(0, (*messages, Message("assistant", ANSWER))))


def ready(name: str, identity: Mapping[str, Any], generator: TransformersGenerator) -> ReadyModel:
    """Complete what is known of a model. identity: JSON that differs where its weights do."""
    tokenizer = generator.tokenizer
    template = template_for("tokenizer", tokenizer) if chat_template(tokenizer) else None
    if torch.cuda.is_available():
        torch.nn.Module.to(generator.model, "cuda")
    told = json.dumps([dict(identity), template.text if template else "", str(generator.stops)], sort_keys=True)
    return ReadyModel(name, hashlib.sha256(told.encode()).hexdigest(), generator, template)


def ready_export(location: str, *, batch_size: int) -> ReadyModel:
    """An export directory, or any transformers directory with safetensors. Raises ModelError.

    Its identity is that of its files' names and sizes, and of its manifest's checksums where it has one.
    """
    directory = model_directory(storage.absolute(location))
    model, tokenizer = load_exported(location)
    generator = TransformersGenerator(model, tokenizer, _stops(model), batch_size=batch_size)
    return ready(location, {"files": _files(directory)}, generator)


def _files(directory: str) -> list[Any]:
    above = directory.rstrip("/").rpartition("/")[0]
    for place in (directory, above):
        if storage.exists(manifest := storage.join(place, "export.json")):
            return [hashlib.sha256(storage.read_bytes(manifest)).hexdigest()]
    fs, path = storage.filesystem(directory)
    infos = [fs.get_file_info(f"{path}/{name}") for name in sorted(storage.list_names(directory))]
    return [[info.base_name, info.size, info.mtime_ns] for info in infos if info.is_file]


def _stops(model: PreTrainedModel) -> list[int] | None:
    """What its generation config ends answers at; None: not said."""
    stated = None if model.generation_config is None else model.generation_config.eos_token_id
    return [stated] if isinstance(stated, int) else list(stated) if stated else None
