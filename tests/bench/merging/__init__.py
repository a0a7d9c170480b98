"""Measures the merging of embedding requests: what it gains under load, and what it costs without."""
