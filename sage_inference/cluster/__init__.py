"""Engines that a Ray cluster places. The room runs on Ray's machines only, and the rest of the package never loads it."""
