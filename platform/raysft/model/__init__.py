"""Models, adapters, the loss primitive and export: torch, transformers, peft. No ray."""
