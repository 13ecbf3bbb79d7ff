"""The driver side: runs, failures, preflight, Ray."""
