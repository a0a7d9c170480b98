"""Transfers a prompt's KV blocks from one simulated vLLM to another, as vLLM's NixlConnector does by pulling.

The engine that computed a prompt keeps its blocks under a lease, and reports their place in ``kv_transfer_params``.
The engine that continues fetches them over a side channel, which frees them. Instead of blocks, one line is sent
each way.
"""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

from sage_inference.simulator.clock import Clock
from sage_inference.simulator.vllm.errors import ApiError

HANDSHAKE_S = 5.0
_LEASE_S = 30.0
# A 7B model's 128 KiB per token at 32 GB/s, and the set-up of a transfer.
_MS_PER_TOKEN, _MS = 0.004, 1.0
_NEEDED = ("remote_engine_id", "remote_request_id", "remote_host", "remote_port")
_POLICIES = ("fail", "recompute")
_GONE, _STRANGER = b"gone\n", b"not I\n"


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """The simulated part of vLLM's ``--kv-transfer-config``.

    ``recompute``: blocks that cannot be fetched are computed anew. Otherwise the request fails.
    """

    lease_s: float = _LEASE_S
    recompute: bool = False

    @classmethod
    def parse(cls, text: str) -> TransferConfig:
        """Raises ``ValueError``."""
        given = json.loads(text)
        if not isinstance(given, dict) or given.get("kv_connector") != "NixlConnector":
            raise ValueError('a KV transfer is simulated as {"kv_connector": "NixlConnector", ...} only')
        policy = given.get("kv_load_failure_policy", "fail")
        if policy not in _POLICIES:
            raise ValueError(f"kv_load_failure_policy is {policy!r}; it takes {', '.join(_POLICIES)}")
        extra = given.get("kv_connector_extra_config") or {}
        return cls(float(extra.get("kv_lease_duration", _LEASE_S)), policy == "recompute")


@dataclass(frozen=True, slots=True)
class _Held:
    tokens: int
    until: float  # on the loop's clock


class KVTransfer:
    """One engine's side of transfers, both as the sender and as the receiver of blocks."""

    def __init__(self, config: TransferConfig, host: str, clock: Clock, block_size: int) -> None:
        self.engine_id = str(uuid.uuid4())
        self.fetched = 0  # prompts that came from other engines
        self._config = config
        self._host = host
        # Bind at once, because the first answer may have to contain the port.
        self._socket = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        self._clock = clock
        self._block_size = block_size
        self._held: dict[str, _Held] = {}
        self._blocks = count(1)

    @property
    def held(self) -> int:
        """Prompts whose blocks are kept for other engines."""
        now = asyncio.get_running_loop().time()
        for name in [name for name, held in self._held.items() if held.until <= now]:
            del self._held[name]
        return len(self._held)

    async def serve(self) -> None:
        """Serve the side channel until cancelled."""
        server = await asyncio.start_server(self._give_blocks, sock=self._socket)
        async with server:
            await server.serve_forever()

    def offer(self, params: Mapping[str, Any] | None, request_id: str, tokens: int) -> dict[str, Any] | None:
        """Keep a computed prompt's blocks. Returns the ``kv_transfer_params`` with which another engine can continue."""
        if not params or not params.get("do_remote_decode"):
            return None
        until = asyncio.get_running_loop().time() + self._config.lease_s
        self._held[request_id] = _Held(tokens, until)
        blocks = -(-tokens // self._block_size)
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [[next(self._blocks) for _ in range(blocks)]],
            "remote_engine_id": self.engine_id,
            "remote_request_id": request_id,
            "remote_host": self._host,
            "remote_port": self._socket.getsockname()[1],
            "tp_size": 1,
            "dcp_size": 1,
            "pp_size": 1,
            "remote_num_tokens": tokens,
            "remote_blocks_expiry_time": None,
            "transfer_mode": "pull",
        }

    async def fetch(self, params: Mapping[str, Any] | None) -> int:
        """The number of prompt tokens that this engine need not compute, because it fetched their blocks.

        It is 0 if the other engine has dropped them: vLLM notices that and computes them itself. An engine that
        cannot be reached, or was replaced, is a failure. Raises ``ApiError``, unless ``recompute`` is set.
        """
        if not params or not params.get("do_remote_prefill") or not params.get("remote_block_ids"):
            return 0
        if any(params.get(name) is None for name in _NEEDED):
            return 0  # as vLLM, which logs that the request will not use the transfer
        answer = await self._ask(params)
        if answer == _GONE:
            return 0
        if answer is None or not answer.strip().isdigit():
            if self._config.recompute:
                return 0
            raise ApiError("Internal server error", status=500, kind="InternalServerError")
        tokens = int(answer)
        await asyncio.sleep(self._clock.seconds(_MS + _MS_PER_TOKEN * tokens))
        self.fetched += 1
        return tokens

    async def _ask(self, params: Mapping[str, Any]) -> bytes | None:
        """The other engine's line, or None if there is none."""
        question = json.dumps([params["remote_engine_id"], params["remote_request_id"]]) + "\n"
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                reader, writer = await asyncio.open_connection(
                    str(params["remote_host"]), int(params["remote_port"])
                )
                with closing(writer):
                    writer.write(question.encode())
                    return await reader.readline()
        except (OSError, ValueError, TypeError, OverflowError):
            return None

    async def _give_blocks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            try:
                engine_id, request_id = json.loads(await reader.readline())
            except (ValueError, TypeError):
                return
            if engine_id != self.engine_id:
                writer.write(_STRANGER)
                return
            held = self._held.pop(request_id, None) if self.held else None
            writer.write(b"%d\n" % held.tokens if held else _GONE)
