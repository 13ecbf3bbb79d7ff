"""An example of each verb, as its help shows it."""

from __future__ import annotations

import argparse
from typing import Any

EXAMPLES = {
    "train": "  raysft train jobs/recipes/gsm8k.yaml --set data.train=gsm8k_train.jsonl\n"
    "  RAY_ADDRESS=10.0.0.5:6379 raysft train recipe.yaml --set cluster.workers=8",
    "check": "  raysft check recipe.yaml --set cluster.workers=8",
    "prepare": "  raysft prepare recipe.yaml --set data.max_tokens=2048",
    "plan": "  raysft plan recipe.yaml --cluster 8xH100-80G\n"
    "  raysft plan recipe.yaml --cluster 2x8xA100-80G --json\n"
    "  raysft plan --matrix",
    "manifest": "  raysft manifest recipe.yaml --on cluster.yaml | kubectl apply -f -",
    "submit": "  raysft submit recipe.yaml --address http://localhost:8265 --env HF_TOKEN\n"
    "  raysft submit recipe.yaml --on cluster.yaml --dry-run",
    "jobs": "  raysft jobs list --address http://localhost:8265\n  raysft jobs attach my-run-1",
    "doctor": "  RAY_ADDRESS=10.0.0.5:6379 raysft doctor --storage s3://bucket/runs\n"
    "  raysft doctor recipe.yaml --json",
    "preview": "  raysft preview recipe.yaml --num 3\n  raysft preview recipe.yaml --num 20 --packed",
    "data": "  raysft data report recipe.yaml\n  raysft data log recipe.yaml",
    "ui": "  raysft ui storage\n  RAYSFT_UI_TOKEN=... raysft ui s3://bucket/runs --host 0.0.0.0",
    "compare": "  raysft compare storage/runs/one storage/runs/other --out comparison.html",
    "report": "  raysft report recipe.yaml\n  raysft report storage/runs/my-run",
    "data report": "  raysft data report recipe.yaml --out report.html\n"
    "  raysft data report recipe.yaml --attribute gender --attribute region",
    "data log": "  raysft data log recipe.yaml",
    "data diff": "  raysft data diff recipe.yaml 1 2",
    "data rollback": "  raysft data rollback recipe.yaml 1",
    "evaluate": "  raysft evaluate recipe.yaml\n  raysft evaluate recipe.yaml --model storage/runs/my-run/export",
    "evaluate human": "  raysft evaluate human study.db --raters alice,bob \\\n"
    "      --answers before=a.jsonl --answers after=b.jsonl\n"
    "  raysft evaluate human study.db --results --csv ratings.csv --preferences preferences.jsonl",
    "evaluate judge": "  raysft evaluate judge verdicts.jsonl --url http://127.0.0.1:8000/v1 --model judge-70b \\\n"
    "      --answers before=before.jsonl --answers after=after.jsonl",
    "evaluate harness": "  raysft evaluate harness runs/reverse --tasks my_task --include tasks",
    "evaluate fairness": "  raysft evaluate fairness answers.jsonl --by gender --metrics exact_match\n"
    "  raysft evaluate fairness questions.jsonl --swap terms.jsonl --out exchanged.jsonl",
    "generate": "  raysft generate storage/runs/my-run --in questions.jsonl --out answers.jsonl",
    "chat": "  raysft chat storage/runs/my-run --compare base",
    "export": "  raysft export recipe.yaml",
    "tune": "  raysft tune recipe.yaml --set tune.budget.trials=32\n  raysft tune report recipe.yaml",
    "schema": "  raysft schema > recipe.schema.json",
    "tokenizer": "  raysft tokenizer train gsm8k_train.jsonl --out tokenizer --vocab-size 16000 \\\n"
    "      --column instruction=question --column output=answer",
}


def texts(name: str) -> dict[str, Any]:
    """What a parser is made with so that its help shows the example; nothing for a verb without one."""
    if name not in EXAMPLES:
        return {}
    return {
        "epilog": "example:\n" + EXAMPLES[name],
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }
