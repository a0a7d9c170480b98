"""A simulated vLLM, after what vLLM 0.32.0 sends."""
