"""From files to packed token rows on Ray Data. Knows nothing of training."""
