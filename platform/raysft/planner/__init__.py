"""Which layout fits and how fast it is: memory, communication and time from formulas. Imports no torch."""
