"""Embedding calls on the wire: the body that an engine is sent, and the vectors in its answer."""
