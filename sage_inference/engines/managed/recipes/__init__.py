"""Recipes: how each kind of engine is found on this machine and started."""

from sage_inference.engines.managed.recipes.base import EngineLaunch, LaunchError, NotInstalledError
from sage_inference.engines.managed.recipes.prepare import prepare

__all__ = ["EngineLaunch", "LaunchError", "NotInstalledError", "prepare"]
