"""Answers rated by a language model behind an OpenAI-compatible address: what it is asked, what replies say."""
