"""Groups that import a command only when it is invoked, and help that needs no Rich."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from sage_inference.cli.errors import usage
from sage_inference.cli.program import as_called

# Contexts and commands are Any here: Typer's newer versions bring their own Click, older ones use the package.


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command: the module that holds it as ``app``, and its help line, shown without an import."""

    module: str
    help: str
    panel: str = "Commands"


def plain_app(cls: type[TyperGroup] | None = None, **more: Any) -> typer.Typer:
    """A Typer app with plain help, our own completion scripts, and errors shown by ``main``."""
    return typer.Typer(
        cls=cls,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **more,
    )


def _options_by_panel(command: Any, context: Any, formatter: Any) -> None:
    """Arguments, then options in groups by task (their ``rich_help_panel``), then those without one."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
    rest: list[tuple[str, str]] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            sections["Arguments"].append(record)
        elif (panel := getattr(parameter, "rich_help_panel", None)) is not None:
            sections.setdefault(panel, []).append(record)
        else:
            rest.append(record)
    sections["Options" if len(sections) == 1 else "Other options"] = rest
    for title, records in sections.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


class PlainCommand(TyperCommand):
    """A command whose help groups its options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _options_by_panel(self, ctx, formatter)

    def get_help(self, ctx: Any) -> str:
        return as_called(super().get_help(ctx))


class LazyGroup(TyperGroup):
    """A group that knows its commands' names and first lines, and imports one when it is invoked."""

    lazy: ClassVar[Mapping[str, Lazy]] = {}

    def get_help(self, ctx: Any) -> str:
        return as_called(super().get_help(ctx))

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = self.lazy.get(cmd_name)
        if found is None:
            return None
        command: Any = typer.main.get_command(import_module(found.module).app)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            raise usage(f'no command "{args[0]}" in {ctx.command_path}', self._suggestion(args[0]))
        return super().resolve_command(ctx, args)

    def _suggestion(self, word: str) -> str:
        from difflib import get_close_matches

        close = get_close_matches(word, list(self.lazy), n=2)
        return f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(self.lazy)}"

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.lazy.items():
            panels.setdefault(command.panel, []).append((name, command.help))
        for title, rows in panels.items():
            with formatter.section(title):
                formatter.write_dl(rows)
        _options_by_panel(self, ctx, formatter)
