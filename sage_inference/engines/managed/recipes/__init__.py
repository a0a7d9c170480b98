"""Recipes: how each kind of engine is found on this machine and started."""

from sage_inference.engines.managed.launch import EngineLaunch, LaunchError, NotInstalledError
from sage_inference.engines.managed.recipes.prepare import prepare, spec_hash

__all__ = ["EngineLaunch", "LaunchError", "NotInstalledError", "prepare", "spec_hash"]
