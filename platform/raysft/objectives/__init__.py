"""What is minimised: batch -> (loss sum, units, metrics)."""
