"""Chat templates and tokenizers of the kinds that people have, made here: what several tests compare with.

The templates are written after the public ones of their families, shortened; the tokenizers are trained on a few
sentences with the pre-tokenizers of those families.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN2 = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}" + CHATML
)
QWEN3 = """\
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- if tools -%}
    {{- '<|im_start|>system\\n# Tools\\n' -}}
    {%- for t in tools -%}{{- t | tojson + '\\n' -}}{%- endfor -%}{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {%- set thought = m.reasoning_content or '' -%}
        {%- set answer = m.content -%}
        {%- if '</think>' in m.content -%}
            {%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
            {%- set answer = m.content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if loop.index0 > ns.last and (loop.last or thought) -%}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + answer.lstrip('\\n') -}}
        {%- else -%}{{- answer -}}{%- endif -%}
        {%- for c in m.tool_calls or [] -%}
            {{- '\\n<tool_call>\\n{"name": "' + c.function.name -}}
            {{- '", "arguments": ' + c.function.arguments | tojson + '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif m.role == 'tool' -%}
        {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' -}}
    {%- else -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set talk = messages[1:] %}{% else %}{% set system = '' %}{% set talk = messages %}{% endif %}"
    "{% for m in talk %}{% if m.role == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
    "(m.content | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL_V01 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
    "{% else %}{{ raise_exception('no system turns') }}{% endif %}{% endfor %}"
)
MISTRAL_V03 = MISTRAL_V01.replace("{{ m.content + eos_token }}", "{{ ' ' + m.content + eos_token }}")
MISTRAL_NEMO = MISTRAL_V01.replace("'[INST] ' + m.content + ' [/INST]'", "'[INST]' + m.content + '[/INST]'")
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' + m.content | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
COMMAND = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' }}{% if m.role == 'assistant' %}"
    "{{ '<|CHATBOT_TOKEN|><|START_RESPONSE|>' + m.content + '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' }}"
    "{% else %}{{ ('<|USER_TOKEN|>' if m.role == 'user' else '<|SYSTEM_TOKEN|>') + m.content + "
    "'<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{% elif m.role == 'assistant' %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant' }}"
    "{% if m.thinking and loop.last %}"
    "{{ '<|channel|>analysis<|message|>' + m.thinking + '<|end|><|start|>assistant' }}{% endif %}"
    "{{ '<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}"
    "{{ 'USER: ' + m.content + '\n' }}{% else %}{{ 'ASSISTANT: ' + m.content + eos_token + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
BLOCKS = CHATML.replace(
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}",
    "{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}",
)
"""ChatML that says by generation blocks what the assistant writes, as the templates made for training do."""


@dataclass(frozen=True)
class Pair:
    """A template with a kind of tokenizer. `has_system`: it takes system turns."""

    template: str
    kind: str
    bos: str | None
    eos: str
    others: tuple[str, ...] = ()
    has_system: bool = True
    plain: tuple[str, ...] = ()
    """Added tokens that are not flagged special."""
    strips: bool = False
    """Do the special tokens take the white space behind them, as Phi-3's do?"""


_HARMONY = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|call|>")
PAIRS = {
    "chatml, gpt2": Pair(CHATML, "gpt2", None, "<|im_end|>", ("<|im_start|>",)),
    "chatml of a base, digits": Pair(CHATML, "digits", None, "<|endoftext|>", ("<|im_start|>", "<|im_end|>")),
    "qwen2, one digit": Pair(QWEN2, "one digit", None, "<|im_end|>", ("<|im_start|>",)),
    "qwen3, one digit": Pair(
        QWEN3, "one digit", None, "<|im_end|>", ("<|im_start|>",), plain=("<think>", "</think>", "<tool_call>")
    ),
    "llama2, prepend": Pair(LLAMA2, "prepend", "<s>", "</s>"),
    "llama2, first": Pair(LLAMA2, "first", "<s>", "</s>"),
    "llama3, digits": Pair(
        LLAMA3, "digits", "<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")
    ),
    "mistral v0.1, always": Pair(MISTRAL_V01, "always", "<s>", "</s>", has_system=False),
    "mistral v0.3, first": Pair(MISTRAL_V03, "first", "<s>", "</s>", ("[INST]", "[/INST]"), has_system=False),
    "mistral nemo, digits": Pair(MISTRAL_NEMO, "digits", "<s>", "</s>", ("[INST]", "[/INST]"), has_system=False),
    "gemma, never": Pair(GEMMA, "never", "<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"), has_system=False),
    "phi3, prepend": Pair(
        PHI3, "prepend", "<s>", "<|endoftext|>", ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), strips=True
    ),
    "zephyr, first": Pair(ZEPHYR, "first", "<s>", "</s>"),
    "command r7b, gpt2": Pair(
        COMMAND,
        "gpt2",
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        ("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        plain=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ),
    "deepseek, digits": Pair(
        DEEPSEEK,
        "digits",
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        plain=("<｜User｜>", "<｜Assistant｜>"),
    ),
    "harmony, digits": Pair(HARMONY, "digits", None, "<|return|>", _HARMONY),
    "vicuna, prepend": Pair(VICUNA, "prepend", "<s>", "</s>"),
    "vicuna, gpt2": Pair(VICUNA, "gpt2", None, "</s>"),
    "vicuna, unigram": Pair(VICUNA, "unigram", None, "</s>"),
    "vicuna, wordpiece": Pair(VICUNA, "wordpiece", None, "</s>"),
    "blocks, one digit": Pair(BLOCKS, "one digit", None, "<|im_end|>", ("<|im_start|>",)),
    "blocks, first": Pair(BLOCKS, "first", None, "<|im_end|>", ("<|im_start|>",)),
}

_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SENTENCES = (
    "Blue.",
    "The sea is wide and the sky is blue; seven swans swim on it.",
    "12 + 35 = 47, so 1234567 is more than 99.",
    "Hello there, how are you today?",
    "def f(x):\n    return x  # twice\n\n\nprint(f(2))",
    "naïve café, 你好，世界。再见！ 🙂 ok",
    "USER: no\nASSISTANT: yes\n\n- one\n- two",
    '{"a": [1, 2], "b": null}',
    "\n\nAfter two line breaks",
    "  two blanks, then text  ",
)


@lru_cache(maxsize=32)
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the pair's kind with its special tokens and its template."""
    pair = PAIRS[name]
    backend = _trained(pair.kind)
    special = [token for token in (pair.bos, pair.eos, *pair.others) if token]
    backend.add_special_tokens([AddedToken(token, rstrip=pair.strips, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in pair.plain])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=pair.eos, bos_token=pair.bos)
    tokenizer.chat_template = pair.template
    return tokenizer


def _trained(kind: str) -> Tokenizer:
    letters = sorted({letter for sentence in SENTENCES for letter in sentence} | set("abcdefghijklmnopqrstuvwxyz"))
    if kind in ("gpt2", "digits", "one digit"):
        backend = Tokenizer(models.BPE())
        pattern = _DIGITS if kind == "digits" else _DIGITS.replace(r"\p{N}{1,3}", r"\p{N}")
        backend.pre_tokenizer = (
            pre_tokenizers.ByteLevel(add_prefix_space=False)
            if kind == "gpt2"
            else pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(pattern), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        )
        backend.decoder = decoders.ByteLevel()
        backend.post_processor = processors.ByteLevel(trim_offsets=False)
        trainer = trainers.BpeTrainer(
            vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    elif kind == "wordpiece":
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]"], show_progress=False)
    elif kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.UnigramTrainer(
            vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        )
    else:
        return _sentence_piece(kind, letters)
    backend.train_from_iterator(SENTENCES * 20, trainer)
    return backend


def _sentence_piece(kind: str, letters: list[str]) -> Tokenizer:
    """BPE over marks for blanks with bytes for what it lacks. kind: where a mark is put before a text."""
    training = Tokenizer(models.BPE())
    training.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    training.train_from_iterator(SENTENCES * 20, trainers.BpeTrainer(vocab_size=260, show_progress=False))
    learned = training.get_vocab()
    merges = [tuple(merge) for merge in _merges(training)]
    alphabet = ["▁", *(letter for letter in letters if letter.isascii() and not letter.isspace())]
    known = [token for token in sorted(learned, key=learned.get) if all(c in alphabet for c in token)]
    vocabulary = list(dict.fromkeys(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet, *known]))
    kept = [pair for pair in merges if {*pair, "".join(pair)} <= set(vocabulary)]
    backend = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(vocabulary)},
            merges=kept,
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    if kind == "prepend":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "never":
        backend.normalizer = normalizers.Replace(" ", "▁")
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    return [
        merge.split(" ") if isinstance(merge, str) else merge
        for merge in json.loads(tokenizer.to_str())["model"]["merges"]
    ]


def records(count: int, *, has_system: bool, seed: int = 0) -> list[list[dict[str, str]]]:
    """Conversations of one to three exchanges whose texts begin and end in all ways."""
    random = np.random.default_rng(seed)

    def text() -> str:
        first = str(random.choice([*SENTENCES, "7", "yes", "B"]))
        return first if random.random() < 0.7 else first + " " + str(random.choice(SENTENCES))

    made = []
    for _ in range(count):
        turns = [
            {"role": role, "content": text()} for _ in range(random.integers(1, 4)) for role in ("user", "assistant")
        ]
        system = [{"role": "system", "content": "Be brief."}] if has_system and random.random() < 0.3 else []
        made.append(system + turns)
    return made
