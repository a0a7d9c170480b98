"""Both clients behind one face, so that one test holds for both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

from sage_inference import AsyncTextStream, AsyncUnifiedInferenceClient, UnifiedInferenceClient

KINDS = ("sync", "async")


class AsyncFace:
    """An ``AsyncUnifiedInferenceClient`` on an event loop of its own, called as if it were the other."""

    def __init__(self, runner: asyncio.Runner, client: AsyncUnifiedInferenceClient) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not inspect.iscoroutinefunction(method):
            return method

        def call(*args: Any, **fields: Any) -> Any:
            found = self._runner.run(method(*args, **fields))
            return StreamFace(self._runner, found) if isinstance(found, AsyncTextStream) else found

        return call


class StreamFace:
    def __init__(self, runner: asyncio.Runner, stream: AsyncTextStream) -> None:
        self._runner = runner
        self._stream = stream

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return self._runner.run(self._next())
        except StopAsyncIteration:
            raise StopIteration from None

    async def _next(self) -> str:
        return await anext(self._stream)

    def close(self) -> None:
        self._runner.run(self._stream.aclose())

    @property
    def result(self) -> Any:
        return self._stream.result


class Clients:
    """Makes clients of one kind, and closes them at the end."""

    def __init__(self, kind: str, runner: asyncio.Runner) -> None:
        self.kind = kind
        self._runner = runner
        self._made: list[Any] = []

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._keep(
            (UnifiedInferenceClient if self.kind == "sync" else AsyncUnifiedInferenceClient)(*args, **options)
        )

    def auto(self, **options: Any) -> Any:
        if self.kind == "sync":
            return self._keep(UnifiedInferenceClient.create_auto(**options))
        return self._keep(self._runner.run(AsyncUnifiedInferenceClient.create_auto(**options)))

    def control_plane(self, *args: Any, **options: Any) -> Any:
        of = UnifiedInferenceClient if self.kind == "sync" else AsyncUnifiedInferenceClient
        return self._keep(of.create_with_control_plane(*args, **options))

    def _keep(self, client: Any) -> Any:
        face = client if self.kind == "sync" else AsyncFace(self._runner, client)
        self._made.append(face)
        return face

    def close(self) -> None:
        for face in self._made:
            face.close()
