"""Transformers models and prompts, as this package asks them."""
