"""Real engines on the CPU: how they are installed, started and stopped."""
