"""Model and optimizer as one object. The only importers of deepspeed."""
