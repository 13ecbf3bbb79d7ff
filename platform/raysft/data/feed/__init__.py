"""Stores and streams -> the micro-batches of a step. Which rows, in which order, on which replica."""
