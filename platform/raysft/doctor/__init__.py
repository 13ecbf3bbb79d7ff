"""`raysft doctor`: what is wrong with a cluster, before GPUs are paid for. Probes find facts, checks judge them."""
