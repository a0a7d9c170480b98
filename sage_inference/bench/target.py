"""The measured server: its address, and the heads of requests to it."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass, field

from sage_inference import trust
from sage_inference.bench.errors import BenchError
from sage_inference.netloc import netloc, origin

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """``prefix`` is the path before ``/v1``, mostly empty. An IPv6 host has no brackets.

    ``pinned`` is for a server that is known by its certificate; without it, trusted authorities decide.
    """

    host: str
    port: int
    tls: bool = False
    prefix: str = ""
    key: str | None = field(default=None, repr=False)
    pinned: ssl.SSLContext | None = field(default=None, repr=False, compare=False)

    @property
    def context(self) -> ssl.SSLContext:
        """Raises ``TrustError``."""
        return self.pinned or trust.context()

    @property
    def authority(self) -> str:
        return netloc(self.host, self.port)

    @property
    def url(self) -> str:
        return origin(self.host, self.port, self.tls) + self.prefix

    def head(self, path: str) -> bytes:
        """The head of a POST up to ``content-length: ``, which is its last header."""
        lines = [
            f"POST {self.prefix}{path} HTTP/1.1",
            f"host: {self.authority}",
            "content-type: application/json",
            *([f"authorization: Bearer {self.key}"] if self.key else ()),
            "content-length: ",
        ]
        return "\r\n".join(lines).encode("latin-1", "replace")


def served_models(target: Target) -> list[str]:
    """The models in ``/v1/models``. Raises ``BenchError`` if the server is not reached or has none."""
    status, raw = _get(target, f"{target.prefix}/v1/models")
    if status in (401, 403):
        words = "wants another API key" if target.key else "wants an API key"
        raise BenchError(f"{target.url} {words}", "give --api-key env:NAME or file:PATH", "api_key")
    try:
        names = [str(one["id"]) for one in json.loads(raw)["data"]]
    except (ValueError, KeyError, TypeError):
        names = []
    if not names:
        raise BenchError(
            f"{target.url}/v1/models names no model (status {status})", "give --model NAME", "no_model"
        )
    return names


def hint_for(error: Exception) -> str:
    """A hint for a server that is not reached."""
    if isinstance(error, ssl.SSLCertVerificationError | trust.TrustError):
        return "SSL_CERT_FILE=FILE names certificates to trust"
    return "is the server running, and the address right?"


def _get(target: Target, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=_TIMEOUT_S)
    try:
        if target.tls:
            connection = http.client.HTTPSConnection(
                target.host, target.port, timeout=_TIMEOUT_S, context=target.context
            )
        connection.request(
            "GET", path, headers={"authorization": f"Bearer {target.key}"} if target.key else {}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = trust.explain(error)
        if reason is None:
            reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise BenchError(f"{target.url} does not answer: {reason}", hint_for(error), "not_reached") from None
    finally:
        connection.close()
