"""Embedding requests: their texts are merged with other callers', and their vectors handed back."""
