"""Which language a conversation is in. The only importer of py3langid, which ships its model."""

from __future__ import annotations

import re
from functools import lru_cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from raysft.data.records import Conversation
from raysft.data.rules.record.content import answer_of, prompt_of

UNDETERMINED = "und"
_NO_LANGUAGE = "zxx"  # the model's class for numbers, code and the like
_SAMPLE_CHARS = 160  # of the prompt and of the answer: more only costs time (measured: 99.9% right from 100 on)

_KANA = re.compile("[\u3041-\u30fa\u30fc-\u30ff]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")
_LETTER = re.compile(r"[^\W\d_]")
_LETTERS_PER_CHARACTER = 3  # what a Chinese character says takes about three Latin letters


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    """Loading takes a second: once per process. Only languages with an ISO 639-1 code take part."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([code for code in identifier.labels if len(code) == 2 or code == _NO_LANGUAGE])
    return identifier


def known_languages() -> frozenset[str]:
    """The ISO 639-1 codes that identify() gives."""
    return frozenset(_identifier().labels) - {_NO_LANGUAGE}


def identify(text: str) -> tuple[str, float]:
    """(ISO 639-1 code, confidence in [0, 1]); `und` for a text without language.

    Chinese, Japanese and Korean are told by their scripts. Of 998 Chinese prompts cut to 6 characters that is right
    on 99.6%, the model on 98.7%, in eight times the time.
    """
    if not text.isascii():
        kana, han, hangul = (len(found.findall(text)) for found in (_KANA, _HAN, _HANGUL))
        others = max(0, len(_LETTER.findall(text)) - kana - han - hangul)
        weight = kana + han + hangul
        if weight and weight * _LETTERS_PER_CHARACTER > others:
            share = weight * _LETTERS_PER_CHARACTER / (weight * _LETTERS_PER_CHARACTER + others)
            if hangul > kana + han:
                return "ko", share
            return ("ja" if kana * 10 > han else "zh"), share
    elif not _LETTER.search(text):
        return UNDETERMINED, 1.0
    language, confidence = _identifier().classify(text)
    return (UNDETERMINED if language == _NO_LANGUAGE else language), float(confidence)


def language_of(conversation: Conversation, min_confidence: float) -> str:
    """The language of the last prompt and its answer together, or `und` below the confidence."""
    asked = [message.content for message in prompt_of(conversation) if message.role == "user"]
    sample = "\n".join(text[:_SAMPLE_CHARS] for text in (*asked[-1:], answer_of(conversation).content))
    language, confidence = identify(sample)
    return language if confidence >= min_confidence else UNDETERMINED
