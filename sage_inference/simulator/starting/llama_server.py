"""``llama-server``: a simulated server of llama.cpp b10434. It listens at once, and answers 503 until the model is loaded."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence
from threading import Event
from typing import TYPE_CHECKING

from sage_inference.simulator.listeners import BoundPort, Listener, UnixSocket
from sage_inference.simulator.starting.failures_printed import LLAMA_SERVER_FAILURES, Point, PrintedFailure
from sage_inference.simulator.starting.log import LlamaLog, write
from sage_inference.simulator.starting.options import (
    EngineParser,
    StartOptions,
    add_start_options,
    start_options,
)

if TYPE_CHECKING:
    from sage_inference.simulator.engine import SimulatedEngine

_END = "srv    operator(): operator(): cleaning up before exit..."
_CONTEXT = 4096


def main(arguments: Sequence[str]) -> int:
    given, unknown = _parser().parse_known_args(arguments)
    options = start_options(given)
    failure = LLAMA_SERVER_FAILURES[options.failure] if options.failure else None
    if failure is not None and failure.point is Point.ARGUMENTS:
        write(f"{failure.error}\n", 2)
        return failure.status
    if unknown:
        write(f"error: invalid argument: {unknown[0]}\n", 2)
        return 1
    return _start(given, options, failure)


def _start(given: argparse.Namespace, options: StartOptions, failure: PrintedFailure | None) -> int:
    log = LlamaLog()
    log.line(
        "I", "cmn  common_param: common_params_print_info: verbosity = 3 (adjust with the `-lv N` CLI arg)"
    )
    try:
        if failure is not None and failure.point is Point.BIND:
            raise OSError
        listener = _bind(given)
    except OSError:
        place = f"hostname: {given.host}, port: {given.port}"
        log.line("E", f"srv         start: couldn't bind HTTP server socket, {place}")
        log.line("I", _END)
        log.line("E", "srv  llama_server: exiting due to HTTP server error")
        return 1
    from sage_inference.simulator.starting.serving import serve

    loaded = Event()

    def load(engine: SimulatedEngine) -> None:
        _load(engine, given, options, failure, listener, log)
        loaded.set()

    serve(lambda: _engine(given, options.speed), listener, options, on_ready=lambda: None, load=load)
    if not loaded.is_set():  # it handles signals from then on
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    log.line("I", _END)
    return 0


def _load(
    engine: SimulatedEngine,
    given: argparse.Namespace,
    options: StartOptions,
    failure: PrintedFailure | None,
    listener: Listener,
    log: LlamaLog,
) -> None:
    model = str(given.model or given.hf_repo)
    log.line("I", f"srv    load_model: loading model '{model}'")
    options.spend(0.2)
    if failure is not None and failure.point is Point.LOAD:
        _fail(failure, model, log)
    log.line("I", f"cmn          init: llama threadpool init, n_threads = {os.cpu_count()}")
    options.spend(0.56)
    if failure is not None:
        _fail(failure, model, log)
    slots = f"n_slots = {given.parallel}, n_ctx_slot = {given.ctx_size or _CONTEXT}, kv_unified = 'true'"
    log.line("I", f"srv    load_model: initializing, {slots}")
    options.spend(0.2)
    address = f"unix://{given.host}" if isinstance(listener, UnixSocket) else listener.url
    log.line("I", "srv  llama_server: model loaded")
    log.line("I", f"srv  llama_server: listening on {address}")
    engine.loading = False  # type: ignore[attr-defined]


def _fail(failure: PrintedFailure, model: str, log: LlamaLog) -> None:
    for line in failure.before.splitlines():
        log.line("E", line)
    failure.end_without_a_word()
    log.line("E", f"srv    load_model: failed to load model, '{model}'")
    log.line("I", _END)
    log.line("E", "srv  llama_server: exiting due to model loading error")
    os._exit(failure.status)


def _bind(given: argparse.Namespace) -> Listener:
    """A host that ends with .sock is a Unix socket, as with llama.cpp."""
    return UnixSocket(given.host) if given.host.endswith(".sock") else BoundPort(given.host, given.port)


def _parser() -> argparse.ArgumentParser:
    parser = EngineParser("llama-server", status=1)
    environ = os.environ
    parser.add_argument("-m", "--model", default=environ.get("LLAMA_ARG_MODEL"))
    parser.add_argument("-hf", "--hf-repo", default=environ.get("LLAMA_ARG_HF_REPO"))
    parser.add_argument("-a", "--alias", default=environ.get("LLAMA_ARG_ALIAS"))
    parser.add_argument("--host", default=environ.get("LLAMA_ARG_HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=environ.get("LLAMA_ARG_PORT", "8080"))
    parser.add_argument("--api-key", default=environ.get("LLAMA_API_KEY"))
    parser.add_argument("-c", "--ctx-size", type=int, default=environ.get("LLAMA_ARG_CTX_SIZE", "0"))
    parser.add_argument("-ngl", "--n-gpu-layers", "--gpu-layers", default="auto")
    parser.add_argument("-np", "--parallel", type=int, default=4)
    parser.add_argument("-b", "--batch-size", type=int, default=2048)
    parser.add_argument("-ub", "--ubatch-size", type=int, default=512)
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--pooling")
    parser.add_argument("--embeddings", "--embedding", action="store_true")
    parser.add_argument("--reranking", "--rerank", action="store_true")
    for name in ("--jinja", "--no-webui", "--metrics", "--slots", "--no-warmup", "--flash-attn", "--mlock"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--dimension", type=int, default=384, help="of vectors; an option of the simulator")
    add_start_options(parser, LLAMA_SERVER_FAILURES)
    return parser


def _engine(given: argparse.Namespace, speed: float) -> SimulatedEngine:
    from sage_inference.simulator.llama_cpp import SimulatedLlamaServer
    from sage_inference.simulator.llm import Limits
    from sage_inference.simulator.vllm.engine import VLLMOptions

    small = given.embeddings or given.reranking
    options = VLLMOptions(
        models=(given.alias or given.model or given.hf_repo or "default",),
        runner="pooling" if small else "generate",
        api_key=given.api_key,
        max_model_len=given.ctx_size or _CONTEXT,
        limits=Limits(max_num_seqs=given.parallel),
        dimension=given.dimension,
    )
    work = "reranking" if given.reranking else "embeddings" if given.embeddings else "text"
    return SimulatedLlamaServer(options, work, speed)
