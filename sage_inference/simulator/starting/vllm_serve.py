"""``vllm-serve``: a simulated ``vllm serve MODEL``, or ``python -m vllm.entrypoints.openai.api_server --model MODEL``.

It binds before it loads and listens only when it is ready. EngineCore is a child process, which a SIGKILL of this process
does not end; the death of EngineCore ends this process, with status 0 after readiness.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_inference.simulator.listeners import BoundPort, Listener, UnixSocket
from sage_inference.simulator.starting import vllm_log
from sage_inference.simulator.starting.engine_core import EngineCore
from sage_inference.simulator.starting.failures_printed import VLLM_FAILURES, Point, PrintedFailure
from sage_inference.simulator.starting.log import VLLMLog, write
from sage_inference.simulator.starting.options import (
    EngineParser,
    StartOptions,
    add_start_options,
    start_options,
)

if TYPE_CHECKING:
    from sage_inference.simulator.engine import SimulatedEngine
    from sage_inference.simulator.server import SimulatorServer

_WATCHDOG_S = 0.5  # vLLM looks every 5 s
_FAILED_CORE = "Engine core initialization failed. See root cause above. Failed core proc(s):"
_FAILED_WORKER = (
    "Exception: WorkerProc initialization failed due to an exception in a background process. "
    "See stack trace for root cause."
)
_OURS = (
    "load_seconds",
    "fail_with",
    "fail_starts",
    "exit_status",
    "after",
    "speed",
    "fault",
    "dimension",
    "deaf_while_loading",
)


def main(arguments: Sequence[str]) -> int:
    parser = _parser()
    given, unknown = parser.parse_known_args([one for one in arguments if one != "serve"])
    options = start_options(given)
    failure = _failure(options, given)
    if failure is not None and failure.point is Point.ARGUMENTS:
        parser.print_usage()
        write(f"vllm serve: {failure.error}\n", 2)
        return failure.status
    return _Start(given, unknown, options, failure).run()


def _parser() -> argparse.ArgumentParser:
    parser = EngineParser("vllm serve")
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B")
    parser.add_argument("--host", default="")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--uds")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--api-key", nargs="+")
    parser.add_argument("--runner", choices=("auto", "generate", "pooling"), default="auto")
    parser.add_argument("--max-model-len", type=_length)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--kv-cache-memory-bytes")
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192)
    parser.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization", "-q")
    parser.add_argument("--revision")
    parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    parser.add_argument("--dimension", type=int, default=384, help="of vectors; an option of the simulator")
    parser.add_argument(
        "--deaf-while-loading",
        action="store_true",
        help="ignore SIGTERM until it is ready, as vLLM 0.32 did when it was recorded; an option of the simulator",
    )
    add_start_options(parser, VLLM_FAILURES)
    return parser


def _length(text: str) -> int:
    """0 for ``auto`` and -1, with which vLLM fits the length to the memory."""
    if text in ("auto", "-1"):
        return 0
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("k", "K") else (text, "")
    return int(number) * {"": 1, "k": 1000, "K": 1024}[unit]


def _failure(options: StartOptions, given: argparse.Namespace) -> PrintedFailure | None:
    failure = VLLM_FAILURES[options.failure] if options.failure else None
    return None if failure is None or failure.mended(given) else failure


class _Start:
    def __init__(
        self,
        given: argparse.Namespace,
        unknown: Sequence[str],
        options: StartOptions,
        failure: PrintedFailure | None,
    ) -> None:
        self._given = given
        self._options = options
        self._failure = failure
        self._shown = _non_default(given, unknown)
        self._log = VLLMLog("APIServer")
        path = given.model_tag or given.model
        self._model = vllm_log.Model(
            name=path,
            max_model_len=given.max_model_len or 32_768,
            pooling=given.runner == "pooling",
            tensor_parallel=given.tensor_parallel_size,
            eager=given.enforce_eager,
            cached=Path(path).is_dir(),
        )
        self._ended_by_core = False

    def run(self) -> int:
        log, model = self._log, self._model
        vllm_log.show_version(log, model.name, self._shown)
        if self._fails_at(Point.CONFIG) or self._fails_at(Point.BIND):
            return self._end_in_traceback()
        try:
            listener = self._bind()
        except OSError as error:
            return self._end_in_traceback(f"OSError: [Errno {error.errno}] {error.strerror}")
        vllm_log.show_config(log, model)
        core = EngineCore(self._work_of_core, workers=model.tensor_parallel)
        deaf = self._given.deaf_while_loading
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN if deaf else lambda *_: signal.raise_signal(signal.SIGINT)
        )
        try:
            if self._failure is None:
                import_module(
                    "sage_inference.simulator.starting.serving"
                )  # takes 0.2 s, beside the core's start
            if not core.ready():
                core.stop()
                failed = {"EngineCore": core.status} if core.status and core.status < 0 else {}
                return self._end_in_traceback(f"RuntimeError: {_FAILED_CORE} {failed}")
        except KeyboardInterrupt:
            core.stop()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        from sage_inference.simulator.starting.serving import serve

        serve(
            self._engine,
            listener,
            self._options,
            on_ready=lambda: vllm_log.show_ready(log, listener.url, pooling=model.pooling),
            beside=lambda server: self._watch(core, server),
            drain_s=self._given.shutdown_timeout,
        )
        if not self._ended_by_core:
            core.stop()
        vllm_log.show_end()
        return 0

    def _fails_at(self, point: Point) -> bool:
        return self._failure is not None and self._failure.point is point

    def _end_in_traceback(self, error: str | None = None) -> int:
        """Print what Python prints of an exception that nobody catches: lines without a process and a level."""
        failure = self._failure
        if error is None and failure is not None:
            error = _validated(failure.error) if failure.point is Point.CONFIG else failure.error
            if failure.before:
                write(failure.before + "\n", 2)
        if error:
            place = 'File "vllm/entrypoints/launchers/api_server/entry.py", line 176, in run_server'
            write(f"Traceback (most recent call last):\n  {place}\n{error}\n", 2)
        return failure.status if failure is not None else 1

    def _bind(self) -> Listener:
        if self._given.uds:
            return UnixSocket(self._given.uds)
        return BoundPort(self._given.host or "0.0.0.0", self._given.port)  # noqa: S104 - as vLLM does

    def _work_of_core(self) -> int:
        phases = vllm_log.CorePhases(self._model, self._options.spend)
        log = VLLMLog("EngineCore")
        steps = (
            (Point.BOOT, phases.boot),
            (Point.LOAD, phases.load),
            (Point.COMPILE, phases.compile),
            (Point.CACHE, lambda: phases.cache(711_520)),
            (Point.CAPTURE, phases.capture),
        )
        for point, step in steps:
            if self._fails_at(point):
                assert self._failure is not None
                workers = self._model.tensor_parallel if point is Point.LOAD else 1
                return _fail_core(log, self._failure, workers)
            step()
        phases.warm()
        return 0

    def _engine(self) -> SimulatedEngine:
        from sage_inference.simulator.llm import Limits
        from sage_inference.simulator.vllm.engine import SimulatedVLLM, VLLMOptions

        given = self._given
        keys = given.api_key or [key] if (key := os.environ.get("VLLM_API_KEY")) else given.api_key
        options = VLLMOptions(
            models=tuple(given.served_model_name or [self._model.name]),
            runner="pooling" if self._model.pooling else "generate",
            api_key=keys[0] if keys else None,
            max_model_len=self._model.max_model_len,
            limits=Limits(given.max_num_seqs, given.max_num_batched_tokens),
            dimension=given.dimension,
            host=given.host or "127.0.0.1",
            dev_mode=given.enable_sleep_mode and os.environ.get("VLLM_SERVER_DEV_MODE") == "1",
        )
        return SimulatedVLLM(options, self._options.speed)

    async def _watch(self, core: EngineCore, server: SimulatorServer) -> None:
        """Stop the server when the core is gone."""
        import asyncio  # only here, because it takes a start that fails most of its time

        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(core.alive, gone.set)
        if self._fails_at(Point.READY):
            loop.call_later(self._options.after_s, os.kill, core.pid, signal.SIGKILL)
        await gone.wait()
        loop.remove_reader(core.alive)
        core.ended()
        self._ended_by_core = True
        vllm_log.show_core_death(self._log)
        server.core_died()
        await asyncio.sleep(_WATCHDOG_S)
        server.stop()


def _validated(error: str) -> str:
    """The error as pydantic shows it, which calls the checks of the model's configuration."""
    kind, _, message = error.partition(": ")
    if kind != "ValueError":
        return error
    about = "[type=value_error, input_value=ArgsKwargs((), {'model': ...}), input_type=ArgsKwargs]"
    page = "    For further information visit https://errors.pydantic.dev/2.14/v/value_error"
    lead = "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig"
    return f"{lead}\n  Value error, {message} {about}\n{page}"


def _fail_core(log: VLLMLog, failure: PrintedFailure, workers: int) -> int:
    if failure.before:
        log.bare(failure.before)
    if failure.signal == signal.SIGKILL:  # as of a container, of which the kernel kills all
        os.kill(os.getppid(), failure.signal)
    failure.end_without_a_word()
    error = failure.error
    if workers > 1:  # each worker prints the cause, and EngineCore only that a worker failed
        place = 'File "vllm/v1/executor/multiproc_executor.py", line 780, in worker_main'
        cause = f"Traceback (most recent call last):\n  {place}\n{error}"
        for rank in range(workers):
            VLLMLog(f"Worker_TP{rank}").error(
                "multiproc_executor.py:812", f"WorkerProc failed to start.\n{cause}"
            )
        error = _FAILED_WORKER
    place = 'File "vllm/v1/engine/core.py", line 1482, in run_engine_core'
    trace = f"Traceback (most recent call last):\n  {place}\n{error}"
    log.error("core.py:1510", f"EngineCore failed to start.\n{trace}")
    write(f"Process EngineCore:\n{trace}\n")
    return failure.status


def _non_default(given: argparse.Namespace, unknown: Sequence[str]) -> dict[str, Any]:
    """The arguments as vLLM prints them: those that differ from the defaults, keys included."""
    parser = _parser()
    shown = {
        name: value
        for name, value in vars(given).items()
        if name not in _OURS and value != parser.get_default(name)
    }
    for option, value in zip(unknown, [*unknown[1:], "--"], strict=False):
        if option.startswith("-"):
            name, _, own = option.lstrip("-").partition("=")
            shown[name.replace("-", "_")] = own or (True if value.startswith("-") else value)
    return shown
