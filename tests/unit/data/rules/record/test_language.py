from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysft.data.records import Conversation, Message
from raysft.data.rules.record.language import identify, known_languages, language_of

SENTENCES = {
    "en": "Could you please explain to me how photosynthesis works in plants?",
    "de": "Könnten Sie mir bitte erklären, wie die Photosynthese bei Pflanzen funktioniert?",
    "fr": "Pourriez-vous m'expliquer comment fonctionne la photosynthèse chez les plantes ?",
    "es": "¿Podría explicarme cómo funciona la fotosíntesis en las plantas verdes?",
    "it": "Potrebbe spiegarmi come funziona la fotosintesi nelle piante verdi?",
    "pt": "Você poderia me explicar como funciona a fotossíntese nas plantas verdes?",
    "nl": "Kunt u mij alstublieft uitleggen hoe fotosynthese bij planten werkt?",
    "pl": "Czy możesz mi wyjaśnić, jak działa fotosynteza u roślin zielonych?",
    "ru": "Не могли бы вы объяснить, как работает фотосинтез у растений?",
    "tr": "Bitkilerde fotosentezin nasıl çalıştığını bana açıklayabilir misiniz?",
    "ar": "هل يمكنك أن تشرح لي كيف تعمل عملية التمثيل الضوئي في النباتات؟",
    "hi": "क्या आप मुझे समझा सकते हैं कि पौधों में प्रकाश संश्लेषण कैसे काम करता है?",
    "vi": "Bạn có thể giải thích cho tôi quang hợp ở thực vật hoạt động như thế nào không?",
    "th": "ช่วยอธิบายให้ฟังหน่อยว่าการสังเคราะห์แสงของพืชทำงานอย่างไร",
    "zh": "请你解释一下植物的光合作用是如何进行的。",
    "ja": "植物の光合成の仕組みを説明してください。",
    "ko": "식물의 광합성이 어떻게 작동하는지 설명해 주세요.",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences(language: str) -> None:
    found, confidence = identify(SENTENCES[language])
    assert found == language
    assert 0.5 < confidence <= 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好", "zh"),
        ("こんにちは", "ja"),
        ("東京タワーへの行き方", "ja"),
        ("안녕", "ko"),
        ("用 Python 写一个 for 循环", "zh"),
        ("", "und"),
        ("123 + 456 = 579 🙂", "und"),
        ("#### 72", "und"),
    ],
)
def test_short_and_mixed(text: str, language: str) -> None:
    assert identify(text)[0] == language


def test_language_of_prompt_and_answer() -> None:
    def record(prompt: str, answer: str) -> Conversation:
        return Conversation(
            1, (Message("system", SENTENCES["de"] * 9), Message("user", prompt), Message("assistant", answer))
        )

    assert language_of(record(SENTENCES["fr"], SENTENCES["fr"]), 0.5) == "fr"
    assert language_of(record("2 + 2 = ?", "4"), 0.5) == "und"
    assert language_of(record("ok", "so"), 0.9) == "und"
    assert language_of(Conversation(1, (Message("text", SENTENCES["es"]),)), 0.5) == "es"


def test_all_codes_are_iso_639_1() -> None:
    assert all(len(code) == 2 for code in known_languages())
    assert set(SENTENCES) <= known_languages()


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_has_an_answer(text: str) -> None:
    language, confidence = identify(text)
    assert language in known_languages() | {"und"}
    assert 0 <= confidence <= 1


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "language", "share"), [("alpaca_en_demo.json", "en", 0.99), ("alpaca_zh_demo.json", "zh", 0.96)]
)
def test_real_records(shared_data: Path, file: str, language: str, share: float) -> None:
    records = json.loads((shared_data / file).read_text("utf-8"))[::5]
    found = Counter(
        language_of(Conversation(1, (Message("user", r["instruction"]), Message("assistant", r["output"]))), 0.5)
        for r in records
    )
    assert found[language] >= share * len(records), found
