"""Answers rated by people: items, a page to rate them on, how far raters agree, what follows for the systems."""
