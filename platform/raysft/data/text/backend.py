"""A tokenizer's Rust half alone: all that text needs to become tokens, without transformers and torch.

Tasks that tokenize are given it as JSON. So they import nothing of a model (3 s and 300 MB for each process), need no
tokenizer files on their node, and make the driver's tokens whatever their node has cached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Tokenizing(Protocol):
    """What texts are tokenized with: a transformers tokenizer, or a Backend."""

    @property
    def backend_tokenizer(self) -> Tokenizer: ...

    @property
    def name_or_path(self) -> str: ...

    def __hash__(self) -> int:
        """By identity: what is worked out once of a tokenizer is kept by it."""


@dataclass(frozen=True, eq=False)
class Backend:
    """The Rust half of a tokenizer, and the name that messages give it."""

    backend_tokenizer: Tokenizer
    name_or_path: str


@dataclass(frozen=True)
class BackendJson:
    """A tokenizer on its way to a task: `text` is the content of its tokenizer.json."""

    name: str
    text: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> BackendJson:
        return cls(str(tokenizer.name_or_path), tokenizer.backend_tokenizer.to_str())

    def load(self) -> Backend:
        """The same tokenizer, in this process."""
        return Backend(Tokenizer.from_str(self.text), self.name)
