"""Checkpoints: layout and checksums, attempts and their lineage, writing behind the training."""
