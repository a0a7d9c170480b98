"""``replay``: what policies would have done with a trace or a record of the gateway's own traffic."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_inference.cli import table, terminal
from sage_inference.cli.complete import policies as policy_names
from sage_inference.cli.errors import Failure
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.numbers import milliseconds
from sage_inference.cli.options import ConfigFile, Json, NoColor, as_path, check_choice

if TYPE_CHECKING:
    from sage_inference.replay.compare import Engines
    from sage_inference.replay.recording import ReplayWorkload
    from sage_inference.replay.report import Percentiles, ReplaySummary
    from sage_inference.replay.slo import Judged, ReplaySlo

app = plain_app()
_HEADERS = (
    "POLICY",
    "TTFT p50/p90/p99",
    "TPOT p50/p90/p99",
    "E2E p50/p90/p99",
    "GOODPUT",
    "CACHED",
    "REFUSED",
)
_GOOD = "What counts as good"
_NAMED = 3  # models in a line


@app.command(cls=PlainCommand)
def replay(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A trace (CSV) or scheduling.record_file (JSON lines).")
    ],
    policy: Annotated[
        list[str],
        typer.Option(
            "--policy",
            "-p",
            metavar="POLICY",
            help="Policy to try; repeat for more.",
            autocompletion=policy_names,
        ),
    ] = ["hybrid", "least_loaded"],  # noqa: B006 - Typer reads it, nobody changes it
    instances: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Modelled engines. Default: those of the record; 4 for a trace.",
        ),
    ] = None,
    speed: Annotated[float, typer.Option(metavar="X", min=0.001, help="Replay X times as fast.")] = 1.0,
    slo_ttft_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            min=1,
            max=86_400_000,
            help="Time to the first token; 30 times that for low and background. Instead of scheduling.slo.",
            rich_help_panel=_GOOD,
        ),
    ] = None,
    slo_tpot_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS",
            min=0.1,
            max=86_400_000,
            help="Time of each token after it. Instead of scheduling.slo.",
            rich_help_panel=_GOOD,
        ),
    ] = None,
    closed_loop: Annotated[
        bool | None,
        typer.Option(
            "--closed-loop/--open-loop",
            help="Callers of a record ask again after an answer, or at the recorded times. "
            "Default: as their connections show.",
        ),
    ] = None,
    usual_times: Annotated[
        bool,
        typer.Option("--usual-times", help="Do not learn step times from a record: an H100, a 7B model."),
    ] = False,
    config: ConfigFile = None,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Show what policies would do with recorded traffic.

    The gateway's own scheduler decides, with modelled engines. From a record it learns how long the steps of your
    engines take, and its first line shows how near a replay under the recorded policy comes to the record. For a
    trace they are an H100 with a 7B model. The scheduler aims at scheduling.slo of the configuration, or at a
    request's own deadline. Goodput is the share of requests that met it.

    \b
    Examples:
      sage inference replay record.jsonl
      sage inference replay record.jsonl --closed-loop --instances 3
      sage inference replay trace.csv --policy hybrid --policy round_robin --speed 2
    """
    from pathlib import Path

    from sage_inference.config.load import load
    from sage_inference.config.paths import Paths
    from sage_inference.config.settings import POLICIES
    from sage_inference.replay.compare import compare, engines_for
    from sage_inference.replay.jobs import WorkloadError
    from sage_inference.replay.slo import ReplaySlo, for_all
    from sage_inference.replay.workload import read_workload

    for name in policy:
        check_choice("policy", name, POLICIES)
    settings = load(Paths.resolve(as_path(config)).config_file, required=config is not None)
    aims = settings.scheduling.slo
    for key, value in (("ttft_ms", slo_ttft_ms), ("tpot_ms", slo_tpot_ms)):
        aims = for_all(aims, key, value) if value is not None else aims
    slo = ReplaySlo(aims, settings.aliases)
    with terminal.WaitIndicator(f"reading {file}") as waiting:
        try:
            recorded = read_workload(Path(file), closed=closed_loop)
        except WorkloadError as error:
            raise Failure(str(error)) from None

        def progress(policy: str, done: int, of: int) -> None:
            waiting.update(f"replaying {policy}: {done:,} of {of:,} requests")

        def learning(trial: int) -> None:
            waiting.update(f"learning step times: replay {trial} of the record")

        engines = engines_for(recorded, policy, slo, instances, not usual_times, learning)
        workload = recorded.at_speed(speed)
        found = compare(workload, policy, engines, slo, progress)
    if as_json:
        terminal.say_json(document(workload, found, engines, speed, slo))
    else:
        _show(workload, found, engines, slo)


def document(
    workload: ReplayWorkload, found: dict[str, ReplaySummary], engines: Engines, speed: float, slo: ReplaySlo
) -> dict[str, Any]:
    """The figures for a script."""
    from sage_inference.cli import replay_record

    return {
        "schema": 1,
        "requests": len(workload.jobs),
        "left_out": workload.left_out,
        "instances": engines.instances,
        "speed": speed,
        "slo": slo.document(workload.jobs),
        "record": replay_record.document(workload, engines),
        "policies": [{"policy": name, **asdict(summary)} for name, summary in found.items()],
    }


def _show(
    workload: ReplayWorkload, found: dict[str, ReplaySummary], engines: Engines, slo: ReplaySlo
) -> None:
    from sage_inference.cli import replay_record

    for line in replay_record.lines(workload, engines):
        terminal.say(line)
    jobs = workload.jobs
    span = (jobs[-1].at_ms - jobs[0].at_ms) / 1000
    count = f"{engines.instances} modelled engine{'s' if engines.instances > 1 else ''}"
    terminal.say(f"{len(jobs):,} requests in {span:,.0f} s, {count}; times in ms")
    for judged in slo.judged(jobs):
        terminal.say(_slo_line(judged))
    deadlines = sum(job.deadline_ms is not None for job in jobs)
    if deadlines:
        terminal.say(
            f"{deadlines:,} requests have a deadline of their own instead of the time to the first token"
        )
    rows = [
        [
            name,
            *(_marks(values) for values in (summary.ttft_ms, summary.tpot_ms, summary.e2e_ms)),
            f"{100 * summary.goodput:.1f} %",
            f"{100 * summary.hit_ratio:.1f} %",
            str(summary.refused),
        ]
        for name, summary in found.items()
    ]
    terminal.say_made(table.render(_HEADERS, rows, width=table.width_of_terminal()))
    if workload.left_out:
        terminal.talk(
            f"left out: {workload.left_out:,} requests that are no text, or whose output is unknown"
        )


def _slo_line(judged: Judged) -> str:
    names = [name or "requests without a model" for name in judged.models[:_NAMED]]
    if len(judged.models) > _NAMED:
        names.append(f"{len(judged.models) - _NAMED} more models")
    levels = [priority.name.lower() for priority in judged.priorities]
    whose = ", ".join(" and ".join(each) for each in (names, levels) if each)
    return (
        f"SLO{f' of {whose}' if whose else ''}: first token in {milliseconds(judged.ttft_ms)} ms, "
        f"{milliseconds(judged.tpot_ms)} ms a token after it"
    )


def _marks(values: Percentiles) -> str:
    return "/".join(
        "-" if value is None else f"{value:.0f}" for value in (values.p50, values.p90, values.p99)
    )
