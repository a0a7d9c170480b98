"""Real vLLM on the CPU for the integration tests: how it is installed, started and stopped."""
