"""Code that nobody has read, run so that it can do no harm. Owns the barriers, their proof, and verdicts of tests.

Sees nothing of raysft but errors; its processes need the standard library alone. Decision 057 says why it is so.
"""
