"""A conversation -> its text, what of it is trained, tokens and mask. Tokenizers and chat templates."""
