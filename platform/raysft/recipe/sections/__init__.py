"""The sections of a recipe, one module each: field types, defaults, bounds of a single field."""
