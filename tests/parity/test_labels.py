"""What the model must say is what is trained: a small model learns fifty labels of one token, and says them all.

With a template that writes a blank before the answer, the label's token begins with that blank: a mask that begins at
the label's first letter never trains it.
"""

from __future__ import annotations

import pytest
import torch
from chats import LLAMA2, VICUNA
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raysft.data.records import Conversation, Message
from raysft.data.text.chat import encode
from raysft.data.text.tokenizer import template_for

LABELS = [first + second + "x" for first in "abcdefghij" for second in "aeiou"]
QUESTIONS = [f"Name {number}" for number in range(len(LABELS))]


def tokenizer_of(kind: str, template: str) -> PreTrainedTokenizerFast:
    """Each label, with the blank before it, is one token; each question's number is, too."""
    texts = [*(f" {label}" for label in LABELS), *QUESTIONS, "USER: ASSISTANT: [INST] [/INST]"] * 5
    backend = Tokenizer(models.BPE(unk_token=None))
    if kind == "byte level":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if kind == "byte level" else ["\n", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(("kind", "template"), [("byte level", VICUNA), ("sentencepiece", LLAMA2)])
def test_every_label_of_one_token_is_said(kind, template):
    tokenizer = tokenizer_of(kind, template.replace(" ' + eos_token", "' + eos_token"))
    talks = [
        Conversation(number, (Message("user", question), Message("assistant", label)))
        for number, (question, label) in enumerate(zip(QUESTIONS, LABELS, strict=True))
    ]
    how = {"train_on": "all", "max_tokens": 64, "over_long": "drop"}
    examples = [found for (found,) in encode(talks, tokenizer, template_for("tokenizer", tokenizer), **how)]
    assert all(example.target.sum() == 2 for example in examples), "the label and the stop"

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )
    width = max(len(example.input_ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)  # [B, T]
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        ids[row, :size] = torch.from_numpy(example.input_ids.copy()).long()
        labels[row, :size] = torch.where(torch.from_numpy(example.target) > 0, ids[row, :size], -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.005:
            break

    said = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        answer = model.generate(prompt, max_new_tokens=4, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        said.append(tokenizer.decode(answer[0, prompt.shape[1] :], skip_special_tokens=True).strip())
        assert answer[0, -1] == tokenizer.eos_token_id
    assert said == LABELS
