"""Engines that the gateway starts: how they are started, what their start prints, and why they fail."""
