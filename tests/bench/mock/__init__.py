"""Engines that answer at once and say nothing true: only their speed, framing and counts matter."""
