"""Records that surveys look at."""

from __future__ import annotations

from typing import Any

ENGLISH = "The river runs slowly through the old town, and people walk along its banks in the evening."


CHINESE = "这条河缓缓流过古老的城镇，人们傍晚沿着河岸散步。"


RECORDS: list[Any] = [
    *({"instruction": f"Tell me about rivers, part {i}.", "output": ENGLISH, "gender": "f"} for i in range(6)),
    *(
        {"instruction": f"请介绍河流，第{i}部分。", "output": CHINESE, "gender": "m", "user": f"u{i}"}
        for i in range(3)
    ),
    {
        "instruction": "Whom do I ask?",
        "output": "Write to anna@example.org or ben@example.org about it.",
        "gender": "m",
    },
    {"instruction": "Nothing?", "output": ""},
    {"no": "format"},
]
