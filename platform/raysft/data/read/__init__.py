"""A location -> files -> read tasks -> raw records, wherever they lie and however they are written."""
