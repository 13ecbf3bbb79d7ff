"""The rules of `data.rules`: on one record at a time (record/), and on keys of all records."""
