"""Measures the gateway against direct access and against other gateways; ``python -m tests.bench --help``."""
