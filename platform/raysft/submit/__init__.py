"""A run on a cluster that is elsewhere: sent, followed, stopped. What is sent decides nothing of the training."""
