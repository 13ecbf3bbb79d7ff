"""What is minimised: terms and units, sums of a batch, and the one law that makes a loss of them."""
