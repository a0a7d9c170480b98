"""A simulated vLLM, after recorded traffic of vLLM 0.32.0."""
