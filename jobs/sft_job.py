"""`ray job submit -- python jobs/sft_job.py RECIPE [--set a.b=v ...]`: what `raysft train` does, on the cluster."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from raysft.cli import main

if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "auto")  # a job always belongs to the cluster it was submitted to
    sys.exit(main(["train", *sys.argv[1:]]))
