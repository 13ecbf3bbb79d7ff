"""Settings of the whole test run."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
