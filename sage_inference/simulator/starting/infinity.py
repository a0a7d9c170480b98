"""``infinity``: a simulated ``infinity_emb v2``. It loads, binds and is ready: a connection is refused before.

Its log is as recorded of infinity 0.0.78: of a width of 80, so that long messages are wrapped into several lines.
"""

from __future__ import annotations

import argparse
import os
import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sage_inference.simulator.listeners import BoundPort
from sage_inference.simulator.starting.failures_printed import INFINITY_FAILURES, Point, PrintedFailure
from sage_inference.simulator.starting.log import write
from sage_inference.simulator.starting.options import (
    EngineParser,
    StartOptions,
    add_start_options,
    start_options,
)

if TYPE_CHECKING:
    from sage_inference.simulator.engine import SimulatedEngine

_WIDTH = 80
_INDENT = 9
_TRUE = ("1", "true", "yes", "on")


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    given = parser.parse_args([one for one in arguments if one != "v2"])
    options = start_options(given)
    failure = INFINITY_FAILURES[options.failure] if options.failure else None
    if failure is not None and failure.mended(given):
        failure = None
    if failure is not None and failure.point is Point.ARGUMENTS:
        parser.print_usage()
        write(f"╭─ Error ─╮\n│ {failure.error} │\n╰─────────╯\n", 2)
        return failure.status
    return _start(given, options, failure)


def _start(given: argparse.Namespace, options: StartOptions, failure: PrintedFailure | None) -> int:
    write(f"INFO:     Started server process [{os.getpid()}]\nINFO:     Waiting for application startup.\n")
    _log("infinity_server.py:84", f"Creating 1 engines: ['{given.served_model_name or given.model_id}']")
    _log(
        "select_model.py:66",
        f"model=`{given.model_id}` selected, using engine=`{given.engine}` and device=`{given.device}`",
    )
    _log("SentenceTransformer.py:218", f"Load pretrained SentenceTransformer: {given.model_id}")
    options.spend(0.5)
    if failure is not None and failure.point in (Point.LOAD, Point.CAPTURE):
        return _fail(failure)
    if given.model_warmup:
        _log("select_model.py:99", "Getting timings for batch_size=32 and avg tokens per sentence=1")
        options.spend(0.5)
    _log("batch_handler.py:456", "creating batching engine")
    _log("batch_handler.py:525", "ready to batch requests.")
    write("INFO:     Application startup complete.\n")
    try:
        listener = BoundPort(given.host, given.port)
    except OSError as error:
        at = f"('{given.host}', {given.port})"
        reason = f"error while attempting to bind on address {at}: {(error.strerror or '').lower()}"
        write(f"ERROR:    [Errno {error.errno}] {reason}\n")
        return 1
    if failure is not None:
        write(f"{failure.error}\n")
        return failure.status
    from sage_inference.simulator.starting.serving import serve

    running = f"INFO:     Uvicorn running on {listener.url} (Press CTRL+C to quit)\n"
    serve(lambda: _engine(given, options.speed), listener, options, on_ready=lambda: write(running))
    write(f"INFO:     Finished server process [{os.getpid()}]\n")
    return 0


def _fail(failure: PrintedFailure) -> int:
    failure.end_without_a_word()
    place = 'File "infinity_emb/infinity_server.py", line 90, in lifespan'
    write(f"ERROR:    Traceback (most recent call last):\n  {place}\n{failure.error}\n", 2)
    write("\nERROR:    Application startup failed. Exiting.\n", 2)
    return failure.status


def _log(place: str, message: str) -> None:
    """A message as Rich prints it for a file: wrapped, with its place at the end of the first line."""
    stamp = f"INFO     {time.strftime('%Y-%m-%d %H:%M:%S')},426 infinity_emb INFO: "
    parts = textwrap.wrap(message, _WIDTH - _INDENT - len(place) - 1)
    first = f"{stamp:<{_WIDTH - len(place)}}{place}"
    write("\n".join([first, *(f"{'':{_INDENT}}{part:<{_WIDTH - _INDENT}}" for part in parts)]) + "\n")


def _parser() -> argparse.ArgumentParser:
    """Each option is a variable too, with ``INFINITY_`` before its name."""
    parser = EngineParser("infinity_emb")
    for name, default in (
        ("model-id", "michaelfeil/bge-small-en-v1.5"),
        ("served-model-name", None),
        ("host", "0.0.0.0"),  # noqa: S104 - as infinity does
        ("url-prefix", ""),
        ("engine", "torch"),
        ("device", "auto"),
        ("dtype", "auto"),
        ("revision", None),
        ("api-key", None),
        ("pooling-method", "auto"),
        ("embedding-dtype", "float32"),
        ("device-id", None),
        ("log-level", "info"),
    ):
        parser.add_argument(f"--{name}", default=os.environ.get(_variable(name), default))
    for name, number in (("port", 7997), ("batch-size", 32)):
        parser.add_argument(f"--{name}", type=int, default=os.environ.get(_variable(name), str(number)))
    for name in ("model-warmup", "trust-remote-code", "bettertransformer", "compile", "vector-disk-cache"):
        on = os.environ.get(_variable(name), "true").lower() in _TRUE
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=on)
    parser.add_argument("--dimension", type=int, default=384, help="of vectors; an option of the simulator")
    parser.add_argument("--capability", default="embed", help="embed or rerank; an option of the simulator")
    add_start_options(parser, INFINITY_FAILURES)
    return parser


def _variable(name: str) -> str:
    return f"INFINITY_{name.upper().replace('-', '_')}"


def _engine(given: argparse.Namespace, speed: float) -> SimulatedEngine:
    from sage_inference.simulator.infinity import InfinityOptions, SimulatedInfinity

    options = InfinityOptions(
        models=(given.served_model_name or given.model_id,),
        prefix=given.url_prefix,
        api_key=given.api_key,
        capability=given.capability,
        dimension=given.dimension,
    )
    return SimulatedInfinity(options, speed)
