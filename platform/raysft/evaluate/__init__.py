"""Generation and held-out quality of an exported model."""
