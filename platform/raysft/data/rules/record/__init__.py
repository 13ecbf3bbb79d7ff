"""The record rules of a recipe: each looks at one conversation at a time. Pure, no Ray.

cleaner.py puts a recipe's rules together; the other modules hold what each rule measures or changes, as functions of
texts and conversations. What compares records with each other is not here.
"""
