"""``doctor``: check this machine and the gateway's setup."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from sage_inference.cli import table, terminal
from sage_inference.cli.exit_codes import ExitCode
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import OUTPUT, ConfigFile, Json, NoColor, as_path
from sage_inference.cli.program import as_called
from sage_inference.cli.unit import program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sage_inference.daemon.service.plan import ServicePlan
    from sage_inference.doctor.finding import Finding

app = plain_app()
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_HEADERS = ("", "check", "found")


@app.command(cls=PlainCommand)
def doctor(
    system: Annotated[
        bool, typer.Option("--system", help="Check the service of the system, as root, instead of yours.")
    ] = False,
    config: ConfigFile = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Show the checks that passed, too.", rich_help_panel=OUTPUT),
    ] = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Check this machine and the gateway's setup.

    Each problem has a line with the command that mends it. A check that does not answer within two seconds is left.

    \b
    Exit codes: 0 nothing failed, although there may be warnings; 1 a check failed.
    """
    from sage_inference.doctor.examination import examine
    from sage_inference.doctor.facts import Facts

    service = _plan(system, as_path(config))
    findings = examine(Facts(service.paths, service))
    if service.which == "--system":
        findings = [replace(each, hint=_for_the_system(each.hint)) for each in findings]
    failed = sum(each.verdict == "fail" for each in findings)
    if as_json:
        terminal.say_json(_document(findings, failed == 0))
    else:
        _show(findings, verbose)
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)


def _plan(system: bool, config: Path | None) -> ServicePlan:
    """Of the system's service, also if its folder is named as that of the gateway's files."""
    from sage_inference.config.paths import SYSTEM_HOME, Paths
    from sage_inference.daemon.service.plan import needs_root_to_read, plan

    paths = Paths.resolve(config)
    system = system or paths.state_dir.parent == SYSTEM_HOME
    found = plan("--system" if system else "--user", program(sys.argv[0]), config)
    refusal = needs_root_to_read(found, "doctor") if system else None
    if refusal is not None:
        raise refusal
    return found


def _for_the_system(hint: str | None) -> str | None:
    """The command for root and for the files of the system's service."""
    from sage_inference.config.paths import HOME_VARIABLE, SYSTEM_HOME

    if hint is None or "--system" in hint:
        return hint
    return hint.replace("sage inference ", f"sudo {HOME_VARIABLE}={SYSTEM_HOME} sage inference ")


def _document(findings: Sequence[Finding], healthy: bool) -> object:
    checks = [
        {
            "name": each.name,
            "verdict": each.verdict,
            "text": each.text,
            "hint": as_called(each.hint) if each.hint else None,
        }
        for each in findings
    ]
    return {"schema": 1, "healthy": healthy, "checks": checks}


def _show(findings: Sequence[Finding], verbose: bool) -> None:
    shown = [each for each in findings if verbose or each.verdict != "ok"]
    if shown:
        rows: list[tuple[str, str, str]] = []
        styles: list[str | None] = []
        for each in shown:
            rows.append((each.verdict, each.name, as_called(each.text)))
            styles.append(_COLOURS[each.verdict])
            if each.hint:
                rows.append(("", "", f"→ {as_called(each.hint)}"))
                styles.append(None)
        terminal.say_made(
            table.render(_HEADERS, rows, width=table.width_of_terminal(), styles=styles, styled_column=0)
        )
    counts = {verdict: sum(each.verdict == verdict for each in findings) for verdict in _COLOURS}
    if counts["ok"] == len(findings):
        terminal.say(f"all {len(findings)} checks passed", style="green")
        return
    parts = [f"{counts['ok']} passed"]
    for verdict, word in (("warn", "warning"), ("fail", "failure")):
        if counts[verdict]:
            parts.append(f"{counts[verdict]} {word}{'s' if counts[verdict] > 1 else ''}")
    terminal.say(", ".join(parts))
