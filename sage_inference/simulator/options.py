"""The command line of a simulated engine."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sage_inference.simulator.engine import SimulatedEngine
from sage_inference.simulator.faults import Fault, FaultError
from sage_inference.simulator.faults import parse as parse_faults
from sage_inference.simulator.starting.commands import COMMANDS

if TYPE_CHECKING:
    from sage_inference.simulator.vllm.transfer import TransferConfig

_INSTANT = "instant"


@dataclass(frozen=True, slots=True)
class Options:
    host: str
    port: int
    uds: str | None
    drain_s: float
    keep_alive_s: int
    exit_with_parent: bool
    faults: list[Fault]
    engine: Callable[[], SimulatedEngine]


def parse(arguments: Sequence[str]) -> Options:
    """Exits with status 2 and a reason if the options are invalid."""
    given = _parser().parse_args(arguments)
    return Options(
        host=given.host,
        port=given.port,
        uds=given.uds,
        drain_s=given.shutdown_timeout,
        keep_alive_s=given.keep_alive,
        exit_with_parent=given.exit_with_parent,
        faults=[fault for faults in given.fault for fault in faults],
        engine=lambda: given.make(given),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sage_inference.simulator",
        description="A simulated engine: a real HTTP server without a model behind it.",
        epilog=f"{', '.join(COMMANDS)}: engines that also start, fail and die as the real ones; each has its own --help.",
    )
    kinds = parser.add_subparsers(required=True, metavar="vllm|tei")
    _vllm_options(kinds.add_parser("vllm", help="answer like vLLM 0.32.0"))
    _tei_options(kinds.add_parser("tei", help="answer like text-embeddings-inference 1.9.3"))
    return parser


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default): any free port")
    parser.add_argument("--uds", help="listen on this Unix socket instead of the port")
    parser.add_argument("--model", action="append", help="served name; further ones are aliases")
    parser.add_argument("--api-key")
    parser.add_argument("--dimension", type=int, default=384, help="dimension of embeddings; default 384")
    parser.add_argument(
        "--speed", type=_speed, default=1.0, help="2 is twice as fast as calibrated; 'instant' has no delays"
    )
    parser.add_argument("--keep-alive", type=int, default=5, help="seconds an idle connection is kept")
    parser.add_argument(
        "--shutdown-timeout",
        type=float,
        default=30.0,
        help="seconds to finish after SIGTERM; then vLLM aborts",
    )
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input ends")
    parser.add_argument(
        "--fault", type=_faults, action="append", default=[], help='such as {"status": 503, "count": 2}'
    )


def _vllm_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--runner", choices=("generate", "pooling", "mixed"), default="generate")
    parser.add_argument("--max-model-len", type=int, default=32768)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--max-num-batched-tokens", type=int, default=8192)
    parser.add_argument("--kv-cache-tokens", type=int, default=940_000)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--text-only", action="store_true", help="refuse images")
    parser.add_argument(
        "--dev-mode",
        action="store_true",
        help="serve /sleep, /wake_up and /is_sleeping, as vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1",
    )
    parser.add_argument(
        "--store-responses",
        action="store_true",
        default=os.environ.get("VLLM_ENABLE_RESPONSES_API_STORE", "0") == "1",
        help="keep responses of /v1/responses; VLLM_ENABLE_RESPONSES_API_STORE=1 sets this, as with vLLM",
    )
    parser.add_argument(
        "--kv-transfer-config",
        type=_transfer,
        help='transfer prompts to other engines, as vLLM with {"kv_connector": "NixlConnector"}',
    )
    parser.set_defaults(make=_vllm)


def _tei_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--model-type", choices=("embedding", "reranker", "classifier"), default="embedding")
    parser.add_argument("--max-client-batch-size", type=int, default=32)
    parser.add_argument("--max-concurrent-requests", type=int, default=512)
    parser.add_argument("--max-batch-tokens", type=int, default=16384)
    parser.add_argument("--max-input-length", type=int, default=512)
    parser.add_argument("--payload-limit", type=int, default=2_000_000)
    parser.add_argument("--auto-truncate", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--serial", action="store_true", help="make no batches of several calls")
    parser.add_argument("--engine-version", default="1.9.3", help="1.8.3 answers 413 where 1.9 answers 422")
    parser.set_defaults(make=_tei)


def _vllm(given: argparse.Namespace) -> SimulatedEngine:
    from sage_inference.simulator.llm import Limits
    from sage_inference.simulator.vllm.engine import SimulatedVLLM, VLLMOptions

    default = "simulated-embedding" if given.runner == "pooling" else "simulated-llm"
    limits = Limits(given.max_num_seqs, given.max_num_batched_tokens, given.kv_cache_tokens, given.block_size)
    options = VLLMOptions(
        models=tuple(given.model or [default]),
        runner=given.runner,
        api_key=given.api_key,
        max_model_len=min(given.max_model_len, given.kv_cache_tokens),
        limits=limits,
        dimension=given.dimension,
        text_only=given.text_only,
        transfer=given.kv_transfer_config,
        host=given.host,
        dev_mode=given.dev_mode,
        stores=given.store_responses,
    )
    return SimulatedVLLM(options, given.speed)


def _tei(given: argparse.Namespace) -> SimulatedEngine:
    from sage_inference.simulator.tei.engine import SimulatedTEI, TEIOptions
    from sage_inference.simulator.tei.work import TEILimits

    options = TEIOptions(
        models=tuple(given.model or ["simulated-embedding"]),
        model_type=given.model_type,
        api_key=given.api_key,
        dimension=given.dimension,
        version=given.engine_version,
        auto_truncate=given.auto_truncate,
        serial=given.serial,
        limits=TEILimits(
            given.max_client_batch_size,
            given.max_concurrent_requests,
            given.max_batch_tokens,
            given.max_input_length,
            given.payload_limit,
        ),
    )
    return SimulatedTEI(options, given.speed)


def _speed(text: str) -> float:
    if text == _INSTANT:
        return 0.0
    speed = float(text)
    if speed < 0:
        raise argparse.ArgumentTypeError(f"a speed is 0 or more, not {text}")
    return speed


def _transfer(text: str) -> TransferConfig:
    from sage_inference.simulator.vllm.transfer import TransferConfig

    try:
        return TransferConfig.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _faults(text: str) -> list[Fault]:
    try:
        return parse_faults(json.loads(text))
    except (json.JSONDecodeError, FaultError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
