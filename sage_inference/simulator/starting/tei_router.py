"""``tei-router``: a simulated ``text-embeddings-router``.

Each option is also an environment variable of the same name, without a prefix: an exported HOSTNAME or PORT redirects it.
It binds when it is ready, so a connection is refused before.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sage_inference.simulator.listeners import Listener, Port
from sage_inference.simulator.starting.failures_printed import TEI_FAILURES, Point, PrintedFailure
from sage_inference.simulator.starting.log import TEILog, write
from sage_inference.simulator.starting.options import EngineParser, add_start_options, start_options

if TYPE_CHECKING:
    from sage_inference.simulator.engine import SimulatedEngine

_ROUTER = "text_embeddings_router"
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")
# With their defaults. None: no default.
_TEXTS = {
    "model-id": None,
    "revision": None,
    "tokenization-workers": None,
    "dtype": None,
    "served-model-name": None,
    "pooling": None,
    "max-batch-requests": None,
    "default-prompt-name": None,
    "default-prompt": None,
    "dense-path": None,
    "hf-api-token": None,
    "hf-token": None,
    "hostname": "0.0.0.0",  # noqa: S104 - as TEI does
    "uds-path": "/tmp/text-embeddings-inference-server",  # noqa: S108 - as TEI does
    "huggingface-hub-cache": None,
    "api-key": None,
    "otlp-endpoint": None,
    "otlp-service-name": "text-embeddings-inference.server",
    "cors-allow-origin": None,
}
_NUMBERS = {
    "max-concurrent-requests": 512,
    "max-batch-tokens": 16384,
    "max-client-batch-size": 32,
    "port": 3000,
    "payload-limit": 2_000_000,
    "prometheus-port": 9000,
}
_SWITCHES = ("auto-truncate", "json-output", "disable-spans")
_REDACTED = ("model_id", "hf_api_token", "hf_token")  # not the API key


def main(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    if given.model_id is None:
        write("error: the following required arguments were not provided:\n  --model-id <MODEL_ID>\n", 2)
        return 2
    options = start_options(given)
    failure = TEI_FAILURES[options.failure] if options.failure else None
    if failure is not None and failure.mended(given):
        failure = None
    start = _Start(given, failure, options.spend)
    try:
        start.phases()
        listener = start.bind()
    except _FailedError as failed:
        return failed.status
    from sage_inference.simulator.starting.serving import serve

    serve(lambda: _engine(given, options.speed), listener, options, on_ready=start.show_ready)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = EngineParser("text-embeddings-router")
    for name, default in _TEXTS.items():
        parser.add_argument(f"--{name}", default=os.environ.get(_variable(name), default))
    for name, number in _NUMBERS.items():
        short = ["-p"] if name == "port" else []
        parser.add_argument(
            f"--{name}", *short, type=int, default=os.environ.get(_variable(name), str(number))
        )
    for name in _SWITCHES:
        default = os.environ.get(_variable(name), "true" if name == "auto-truncate" else "false")
        parser.add_argument(f"--{name}", nargs="?", const=True, type=_switch, default=default)
    parser.add_argument("--dimension", type=int, default=384, help="of vectors; an option of the simulator")
    parser.add_argument("--model-type", default="embedding", help="an option of the simulator")
    add_start_options(parser, TEI_FAILURES)
    return parser


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")


def _switch(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise argparse.ArgumentTypeError(f"{text!r} is no boolean")
    return text.lower() in _TRUE


class _FailedError(Exception):
    def __init__(self, status: int) -> None:
        self.status = status


class _Start:
    def __init__(
        self, given: argparse.Namespace, failure: PrintedFailure | None, spend: Callable[[float], None]
    ) -> None:
        self._given = given
        self._failure = failure
        self._spend = spend
        self._log = TEILog()
        self._prometheus: socket.socket | None = None

    def phases(self) -> None:
        given, log = self._given, self._log
        log.info(_ROUTER, "router/src/main.rs:216", _arguments(given))
        if not Path(given.model_id).is_dir():
            self._download("1_Pooling/config.json", "config.json", "tokenizer.json")
        self._fail_at(Point.CONFIG)
        log.info(
            _ROUTER, "router/src/lib.rs:234", f"Maximum number of tokens per request: {_input_length(given)}"
        )
        workers = given.tokenization_workers or os.cpu_count()
        place = "core/src/tokenization.rs:38"
        log.info("text_embeddings_core::tokenization", place, f"Starting {workers} tokenization workers")
        log.info(_ROUTER, "router/src/lib.rs:284", "Starting model backend")
        if not Path(given.model_id).is_dir():
            log.info("text_embeddings_backend", "backends/src/lib.rs:672", "Downloading `model.safetensors`")
            self._spend(0.3)
            log.info("text_embeddings_backend", "backends/src/lib.rs:507", "Model weights downloaded in 1.2s")
        self._fail_at(Point.LOAD)
        place, device = "backends/candle/src/lib.rs:405", "Cuda(CudaDevice(DeviceId(1)))"
        log.info("text_embeddings_backend_candle", place, f"Starting FlashBert model on {device}")
        self._spend(0.3)
        log.info(_ROUTER, "router/src/lib.rs:302", "Warming up model")
        self._spend(0.2)
        self._fail_at(Point.CAPTURE)

    def _download(self, *files: str) -> None:
        module = "text_embeddings_core::download"
        for text in ("Starting download", *(f"Downloading `{name}`" for name in files)):
            self._log.info(f"download_artifacts: {module}", "core/src/download.rs:20", text)
            self._spend(0.05)
        self._log.info(
            f"download_artifacts: {module}",
            "core/src/download.rs:70",
            "Model artifacts downloaded in 412.5ms",
        )

    def bind(self) -> Listener:
        given = self._given
        self._fail_at(Point.BIND)
        host = _host(given.hostname)
        if host != given.hostname:
            self._log.warn(_ROUTER, "router/src/lib.rs:367", "Invalid hostname, defaulting to 0.0.0.0")
        try:
            self._prometheus = socket.create_server((host, given.prometheus_port))
        except OSError as error:
            reason = f"failed to create HTTP listener: {error.strerror} (os error {error.errno})"
            raise self._failed(f"failed to build prometheus recorder\n\nCaused by:\n    {reason}") from None
        try:
            return Port(host, given.port)
        except OSError as error:
            text = f"Could not bind TCP Listener on {host}:{given.port}"
            raise self._failed(
                f"{text}\n\nCaused by:\n    {error.strerror} (os error {error.errno})"
            ) from None

    def show_ready(self) -> None:
        module = "text_embeddings_router::http::server"
        address = f"{_host(self._given.hostname)}:{self._given.port}"
        self._log.info(module, "router/src/http/server.rs:1880", f"Starting HTTP server: {address}")
        self._log.info(module, "router/src/http/server.rs:1881", "Ready")

    def _fail_at(self, point: Point) -> None:
        failure = self._failure
        if failure is None or failure.point is not point:
            return
        failure.end_without_a_word()
        if failure.before:
            self._log.error("text_embeddings_backend", "backends/src/lib.rs:567", failure.before)
        if failure.status == 101:  # a panic
            write(f"\n{failure.error}\n", 2)
            raise _FailedError(failure.status)
        raise self._failed(failure.error)

    def _failed(self, error: str) -> _FailedError:
        write(f"Error: {error}\n", 2)
        return _FailedError(1)


def _host(given: str) -> str:
    try:
        return str(ipaddress.ip_address(given))
    except ValueError:
        return "0.0.0.0"  # noqa: S104 - as TEI does


def _input_length(given: argparse.Namespace) -> int:
    limit: int = given.max_batch_tokens
    return min(8192, limit)


def _arguments(given: argparse.Namespace) -> str:
    """The line of all arguments. TEI redacts the token and the model, and not the API key."""
    shown = []
    for option in (*_TEXTS, *_NUMBERS, *_SWITCHES):
        name = option.replace("-", "_")
        value = getattr(given, name)
        if name in _REDACTED and value is not None:
            value = value[:3] + "*" * (len(value) - 3)
        if isinstance(value, bool | int):
            shown.append(f"{name}: {str(value).lower()}")
        elif value is None:
            shown.append(f"{name}: None")
        else:
            shown.append(
                f'{name}: "{value}"' if _TEXTS[option] or name == "model_id" else f'{name}: Some("{value}")'
            )
    return f"Args {{ {', '.join(shown)} }}"


def _engine(given: argparse.Namespace, speed: float) -> SimulatedEngine:
    from sage_inference.simulator.tei.engine import SimulatedTEI, TEIOptions
    from sage_inference.simulator.tei.work import TEILimits

    options = TEIOptions(
        models=(given.served_model_name or given.model_id,),
        model_type=given.model_type,
        api_key=given.api_key,
        dimension=given.dimension,
        auto_truncate=given.auto_truncate,
        limits=TEILimits(
            given.max_client_batch_size,
            given.max_concurrent_requests,
            given.max_batch_tokens,
            _input_length(given),
            given.payload_limit,
        ),
    )
    return SimulatedTEI(options, speed)
