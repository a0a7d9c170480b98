"""Real engines on a GPU behind the gateway: preparation, checks without a GPU, and the parts of a run."""
