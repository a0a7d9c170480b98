"""Simulated engines that start as the real ones: their command lines, logs, phases and deaths."""
