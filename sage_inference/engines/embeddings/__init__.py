"""Embedding calls on the wire: what an engine is sent, and what its answer holds."""
