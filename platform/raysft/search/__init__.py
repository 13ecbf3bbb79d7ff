"""Searches over recipes: the study, what is tried next, trials alone and on a shared base."""
