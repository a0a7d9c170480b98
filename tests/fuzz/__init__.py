"""Mutation fuzz of both sides of the relay: ``python -m tests.fuzz --inputs 200000 request|response|embeddings``."""
