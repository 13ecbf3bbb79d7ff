"""What happened in a run and where time went, as files in its directory."""
