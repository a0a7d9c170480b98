"""Finds the engines that run on this machine: by ports that engines usually have, and by their processes."""

from sage_inference.engines.search.search import Findings, FoundEngine, search

__all__ = ["Findings", "FoundEngine", "search"]
