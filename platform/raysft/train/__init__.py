"""The loop, its state, hooks and checkpoints. Only worker.py knows Ray."""
