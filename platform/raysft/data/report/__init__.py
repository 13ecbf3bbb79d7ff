"""What is in the data, for people: preview, certificate, the facts of the data report."""
