"""Lets the parity tests import their neighbours by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
