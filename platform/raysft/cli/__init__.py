"""`raysft <verb>`: main.py ends it, parser.py says what it takes, verbs.py does it."""

from raysft.cli.main import main

__all__ = ["main"]
