"""Faster ways through a model with the same numbers, and the check that they are the same."""
