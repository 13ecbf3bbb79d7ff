"""Records of a run and the pages made from them."""
