"""Tokenizers: loading, hashing, and training a byte-level BPE on a recipe's records.

Owns what a tokenizer is to raysft (a fast one, with a chat template and special tokens). How text becomes
tokens and masks is offsets.py and chat.py.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raysft.data.formats import Reading, check_columns, read_record
from raysft.data.read.sources import RawRecord, expand, read_all
from raysft.data.records import Refusal
from raysft.data.text.rendering import Rendered, render
from raysft.data.text.template import BUILT_IN, SpecialTokens, Template, resolve_template
from raysft.data.text.tokenizer_bounds import check_bounds
from raysft.data.text.tokenizer_files import check_out, publish
from raysft.errors import DataError, ModelError, RecipeError
from raysft.exports import merged_export
from raysft.recipe.schema import Recipe
from raysft.storage import absolute

logger = logging.getLogger(__name__)

# What a tokenizer trained for a built-in template gets: (end of turn = eos, padding, begin of text, others).
_SPECIAL_TOKENS: dict[str, tuple[str, str, str | None, tuple[str, ...]]] = {
    "chatml": ("<|im_end|>", "<|endoftext|>", None, ("<|im_start|>",)),
    "qwen3": ("<|im_end|>", "<|endoftext|>", None, ("<|im_start|>",)),
    "llama3": (
        "<|eot_id|>",
        "<|finetune_right_pad_id|>",
        "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
    ),
    "mistral": (
        "</s>",
        "<pad>",
        "<s>",
        (
            "[INST]",
            "[/INST]",
            "[SYSTEM_PROMPT]",
            "[/SYSTEM_PROMPT]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_CALLS]",
            "[TOOL_RESULTS]",
            "[TOOL_CONTENT]",
            "[/TOOL_RESULTS]",
        ),
    ),
    "gemma": ("<end_of_turn>", "<pad>", "<bos>", ("<start_of_turn>",)),
    "zephyr": ("</s>", "<unk>", "<s>", ("<|system|>", "<|user|>", "<|assistant|>")),
}

# Words with one leading space or sign, single digits, runs of punctuation with their line breaks, white space.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_source(recipe: Recipe) -> str:
    """Directory or hub id of the recipe's tokenizer; directories absolute (workers change directory)."""
    source = recipe.model.tokenizer
    if source is None:
        if recipe.model.source == "random":
            raise RecipeError(
                "a model from random weights needs a tokenizer",
                got="model.source: random, model.tokenizer: null",
                expected="model.tokenizer: a directory or hub id",
                fix="train one with `raysft tokenizer train`, or name an existing one",
            )
        source = recipe.model.source
    if source.startswith("run://"):
        return merged_export(recipe.storage, source.removeprefix("run://"))
    return absolute(source) if Path(source).expanduser().exists() else source


def load_tokenizer(
    source: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from a directory or the hub. Raises ModelError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged tokenizer.json is a bare Exception of the library's
        there, looks_local = Path(source).expanduser(), source.startswith((".", "/", "~"))
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"cannot load a tokenizer from {source!r}",
            got=told
            if there.is_dir()
            else "a file"
            if there.exists()
            else f"no such directory{'' if looks_local else f'; as a hub id: {told}'}",
            expected="a directory with tokenizer.json, or a hub id this machine can reach or has cached",
            fix="check model.tokenizer (and model.revision); train one with `raysft tokenizer train`",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"the tokenizer {source!r} is a slow one",
            got=type(tokenizer).__name__,
            expected="a fast tokenizer: target masks need character offsets",
            fix="convert it to a tokenizer.json (tokenizers library), or use the fast version",
        )
    tokenizer.backend_tokenizer.no_truncation()  # sentence encoders' files cut and pad every text to one length
    tokenizer.backend_tokenizer.no_padding()
    check_bounds(tokenizer.backend_tokenizer, source)
    return tokenizer


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The tokenizer of a recipe. Raises ModelError, RecipeError."""
    model, source = recipe.model, tokenizer_source(recipe)
    try:
        return load_tokenizer(source, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except ModelError as error:
        if model.tokenizer is not None:
            raise
        raise ModelError(  # what is wrong may be the model's place
            f"there is no model {model.source!r}"
            if error.got.startswith("no such directory")
            else f"cannot load the tokenizer of the model {model.source!r}",
            got=error.got,
            expected="a model directory with its tokenizer.json, a hub id that is reachable or cached, or run://NAME",
            fix="check model.source, or name a tokenizer in model.tokenizer",
        ) from error


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 of everything that turns text into ids, and of the chat template."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    content = json.dumps([backend.to_str(), chat_template(tokenizer)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def chat_template(tokenizer: PreTrainedTokenizerFast) -> str | dict[str, str] | None:
    """The tokenizer's own template; by name where it has several."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        return {str(name): str(text) for name, text in template.items()}
    return None if template is None else str(template)


def template_for(
    name: str, tokenizer: PreTrainedTokenizerFast, *, stops: Sequence[str] = (), is_needed: bool = True
) -> Template:
    """`data.template` resolved, with this tokenizer's special tokens. stops: what generation stops at besides the
    tokenizer's end of text. is_needed: False gives one without text where the tokenizer has none of its own."""
    named = tuple(sorted((k, str(v)) for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)))
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    if name in BUILT_IN and (end := _SPECIAL_TOKENS[name][0]) not in tokenizer.get_vocab():
        logger.warning("template %s ends turns with %s, which is not a token of this tokenizer", name, end)
    texts = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    end_of_text = dict(named).get("eos_token")
    special = SpecialTokens(
        named,
        texts=tuple(sorted(texts)),
        added=tuple(sorted({*texts, *(token.content for token in added)})),
        stops=tuple(dict.fromkeys(filter(None, (end_of_text, *stops)))),
    )
    own = chat_template(tokenizer)
    if not is_needed and name == "tokenizer" and not own:
        return Template("none", "", special)
    return resolve_template(name, own, special)


def parse_columns(assignments: Sequence[str]) -> dict[str, str]:
    """`instruction=question`... -> {the format's column: the file's}. Raises RecipeError."""
    columns = {}
    for assignment in assignments:
        name, _, file_name = assignment.partition("=")
        if not (name and file_name):
            raise RecipeError(
                f"cannot read --column {assignment}",
                got=assignment,
                expected="the format's column name = the file's column name",
                fix="for example --column instruction=question",
            )
        columns[name] = file_name
    return columns


def train_tokenizer(
    files: Sequence[str],
    *,
    columns: Mapping[str, str],
    format: str = "auto",
    vocab_size: int,
    template: str,
    out: str,
    overwrite: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the records as `template` (a built-in) writes them; save it to the directory `out`.

    It appears there whole or not at all. overwrite: replace what is there.
    """
    _check_built_in(template)
    eos, pad, bos, others = _SPECIAL_TOKENS[template]
    special = [token for token in (pad, bos, eos, *others) if token]
    if vocab_size < 256 + len(special):
        raise RecipeError(
            "the vocabulary is too small for a byte-level tokenizer",
            got=f"vocab_size {vocab_size}",
            expected=f"at least {256 + len(special)}: 256 bytes and {len(special)} special tokens",
            fix="raise --vocab-size; 4,000 to 32,000 is usual",
        )
    check_columns(columns, format)
    check_out(out, overwrite)
    resolved = resolve_template(template, None)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(files, columns, format, resolved, special), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=eos,
        pad_token=pad,
        bos_token=bos,
        extra_special_tokens=list(others),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = resolved.text
    publish(tokenizer, out)
    if len(tokenizer) < vocab_size:
        logger.warning("the records are too few: %d tokens of the %d that were asked for", len(tokenizer), vocab_size)
    return tokenizer


def _check_built_in(template: str) -> None:
    if template not in BUILT_IN:
        raise RecipeError(
            "a tokenizer is trained for a built-in template",
            got=f"template {template!r}",
            expected=f"one of {', '.join(BUILT_IN)}",
            fix="name one of them; data.template can still be changed later",
        )


def _texts(
    files: Sequence[str], columns: Mapping[str, str], format: str, template: Template, special: Sequence[str]
) -> Iterator[str]:
    """The text between special tokens of every record that can be rendered."""
    splitter = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
    used, refused = 0, Refusal("no_records", "there is no record")
    for raw in read_all(expand(files, purpose="train")):
        rendered = _rendered(raw, columns, format, template)
        if isinstance(rendered, Refusal):
            refused = rendered
            continue
        used += 1
        yield from filter(None, splitter.split(rendered.text.encode(errors="replace").decode()))
    if not used:
        raise DataError(
            "no record can train a tokenizer",
            got=f"{refused.reason}: {refused.detail}",
            expected="records of a known format",
            fix="set data.format and data.columns as for training",
        )


def _rendered(raw: RawRecord, columns: Mapping[str, str], format: str, template: Template) -> Rendered | Refusal:
    if isinstance(raw.value, Refusal):
        return raw.value
    reading = Reading(format=format, columns=columns, several_answers="first")
    read = read_record(raw.value, reading, id=raw.sample_id, source="")
    return read if isinstance(read, Refusal) else render(read[0], template)
