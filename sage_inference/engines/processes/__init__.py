"""Engines that we start ourselves."""
