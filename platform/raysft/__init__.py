"""raysft fine-tunes language models on Ray clusters: one recipe is one run.

The way through the house: recipe -> data -> train -> evaluate -> export. See README.md for the tree.
"""

__version__ = "0.1.0"
