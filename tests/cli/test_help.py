"""Help that needs no import says what the commands say themselves."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import typer

from sage_inference.cli.cluster.group import ClusterGroup
from sage_inference.cli.config.group import ConfigGroup
from sage_inference.cli.engine.group import EngineGroup
from sage_inference.cli.inference import InferenceGroup
from sage_inference.cli.keys.group import KeysGroup
from sage_inference.cli.lazy import Lazy
from sage_inference.cli.main import Root
from sage_inference.cli.service.group import ServiceGroup

LAZY = {
    f"{group.__name__} {name}": lazy
    for group in (Root, InferenceGroup, ClusterGroup, ConfigGroup, EngineGroup, KeysGroup, ServiceGroup)
    for name, lazy in group.lazy.items()
}


@pytest.mark.parametrize("name", LAZY)
def test_the_line_in_the_list_is_the_commands_first_line(name: str) -> None:
    lazy: Lazy = LAZY[name]
    command: Any = typer.main.get_command(import_module(lazy.module).app)
    first = str(command.help).splitlines()[0]
    assert len(lazy.help) < 60
    assert first == lazy.help


@pytest.mark.parametrize("name", LAZY)
def test_examples_stay_on_lines_of_their_own(name: str) -> None:
    command: Any = typer.main.get_command(import_module(LAZY[name].module).app)
    assert "\\b" not in str(command.help)
    examples = str(command.help).partition("Examples:")[2]
    assert not examples or "\b\nExamples:" in str(command.help)
