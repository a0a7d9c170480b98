"""``bench``: measure a server under load."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sage_inference.cli import terminal
from sage_inference.cli.complete import bench_kinds
from sage_inference.cli.exit_codes import ExitCode
from sage_inference.cli.lazy import PlainCommand, plain_app
from sage_inference.cli.options import OUTPUT, Json, NoColor

app = plain_app()
_SERVER, _REQUESTS, _LOAD = "Server", "Requests", "Load"


def _option(metavar: str, help: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)


@app.command(cls=PlainCommand)
def bench(
    url: Annotated[
        str | None, _option("URL", "Any OpenAI-compatible server [the running gateway].", _SERVER)
    ] = None,
    api_key: Annotated[
        str | None, _option("KEY", "env:NAME, file:PATH or itself [the gateway's own].", _SERVER)
    ] = None,
    model: Annotated[
        str | None, _option("NAME", "Model to ask for [the one that is served].", _SERVER)
    ] = None,
    embedding_model: Annotated[
        str | None, _option("NAME", "Model for embeddings, if it is not --model.", _SERVER)
    ] = None,
    kind: Annotated[
        str | None,
        _option(
            "KIND",
            "chat, stream, embeddings, mixed, or weights: stream=8,embeddings=2 [stream].",
            _REQUESTS,
            autocompletion=bench_kinds,
        ),
    ] = None,
    input_tokens: Annotated[
        str | None,
        _option(
            "LENGTH", "Prompt tokens: 128, uniform:10-200, normal:200,50, lognormal:200,0.8 [128].", _REQUESTS
        ),
    ] = None,
    output_tokens: Annotated[
        str | None, _option("LENGTH", "Most tokens of an answer, sent as max_tokens [64].", _REQUESTS)
    ] = None,
    texts: Annotated[str | None, _option("LENGTH", "Texts of an embeddings request [1].", _REQUESTS)] = None,
    ignore_eos: Annotated[
        bool, _option("", "Make answers fill their length (vLLM's ignore_eos).", _REQUESTS, "--ignore-eos")
    ] = False,
    trace: Annotated[
        str | None,
        _option("FILE", "Replay a CSV: t_ms,in_tokens,out_tokens[,blocks].", _REQUESTS),
    ] = None,
    speedup: Annotated[float | None, _option("X", "Replay X times as fast [1].", _REQUESTS)] = None,
    seed: Annotated[
        int, _option("N", "The same seed makes the same requests [0].", _REQUESTS, show_default=False)
    ] = 0,
    concurrency: Annotated[
        int | None, _option("N", "Closed loop: requests under way at any time [16].", _LOAD)
    ] = None,
    rate: Annotated[
        float | None, _option("R", "Open loop: requests a second, as Poisson arrivals.", _LOAD)
    ] = None,
    duration: Annotated[float | None, _option("SECONDS", "Measured time [10].", _LOAD)] = None,
    requests: Annotated[int | None, _option("N", "Number of requests, instead of a time.", _LOAD)] = None,
    warmup: Annotated[float | None, _option("SECONDS", "Load before the measured time [0].", _LOAD)] = None,
    timeout: Annotated[float | None, _option("SECONDS", "Limit for one whole answer [600].", _LOAD)] = None,
    slo: Annotated[
        str | None, _option("LIMITS", "Milliseconds of a good answer: ttft=500,tpot=50,e2e=5000.", OUTPUT)
    ] = None,
    no_ceiling: Annotated[
        bool, _option("", "Do not measure the load generator's own limit first.", OUTPUT, "--no-ceiling")
    ] = False,
    as_json: Json = False,
    no_color: NoColor = False,
) -> None:
    """Measure a server under load; without a URL, the gateway.

    An open loop counts latency from the moment a request should have left, whatever the server does.
    Waits show callers that starve. They include requests due in the warm-up or never answered.
    Ctrl-C shows what was measured so far.

    \b
    Examples:
      sage inference bench --concurrency 64
      sage inference bench --rate 20 --duration 60 --warmup 10 --slo ttft=500,tpot=50
      sage inference bench --kind embeddings --texts 8 --url http://127.0.0.1:8090
      sage inference bench --trace azure.csv --speedup 10 --json
    """
    from sage_inference.bench.options import Given, check
    from sage_inference.bench.run import run
    from sage_inference.cli.benchdocument import document
    from sage_inference.cli.benchprogress import ProgressDisplay
    from sage_inference.cli.benchtarget import find
    from sage_inference.cli.benchtext import show

    checked = check(
        Given(
            kind=kind,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            texts=texts,
            ignore_eos=ignore_eos,
            seed=seed,
            trace=trace,
            speedup=speedup,
            rate=rate,
            concurrency=concurrency,
            duration_s=duration,
            requests=requests,
            warmup_s=warmup,
            timeout_s=timeout,
            slo=slo,
            ceiling=not no_ceiling,
        )
    )
    found = find(checked.mix, url=url, api_key=api_key, model=model, embedding_model=embedding_model)
    plan = checked.plan(found.target, found.models)
    with ProgressDisplay() as progress:
        report = run(plan, progress)
    if as_json:
        terminal.say_json(document(plan, report, simulated=found.simulated))
    else:
        show(plan, report, simulated=bool(found.simulated))
    if report.interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not report.total.ok:
        terminal.talk(_nothing_measured(report.total.sent))
        raise typer.Exit(ExitCode.FAILED)


def _nothing_measured(sent: int) -> str:
    return (
        "no request succeeded"
        if sent
        else "no request was due in the measured time: give a longer --duration"
    )
