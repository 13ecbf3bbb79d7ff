"""Kubernetes: a recipe and a description of the cluster become manifests. Pure; talks to nobody."""
