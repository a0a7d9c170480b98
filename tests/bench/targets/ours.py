"""This gateway, as it is shipped: every setting at its default, and a key to check."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.bench.process import KEY, ROOT
from tests.bench.targets.base import Command, Kind, Launcher
from tests.support.gateway import clean_environment
from tests.support.python_path import led_by


def ours(name: str = "sage-inference", tree: Path | None = None, slots: int = 0) -> Launcher:
    """The gateway of the source tree at ``tree`` (None: this one).

    ``slots``: the most requests an engine gets at once; 0: no limit.
    """
    tree = tree or ROOT

    def recipe(folder: Path, port: int, engines: Mapping[Kind, str]) -> Command:
        instances = [
            {"url": url, "name": kind} | ({"max_concurrent_requests": slots} if slots else {})
            for kind, url in engines.items()
        ]
        # JSON is YAML.
        configuration = folder / "config.yaml"
        settings = {
            "server": {"port": port},
            "instances": instances,
            "api_keys": [{"key": KEY, "name": "bench"}],
            "admin_key": KEY,
        }
        configuration.write_text(json.dumps(settings))
        start = ["-m", "sage_inference", "inference", "start", "--config", str(configuration)]
        environment = clean_environment(folder / "home", PYTHONPATH=led_by(tree))
        environment.pop(
            "SAGE_INFERENCE_DISCOVER"
        )  # an earlier version refuses settings that it does not know
        return Command([sys.executable, *start], cwd=tree, env=environment)

    return Launcher(name, recipe, tree=tree)
