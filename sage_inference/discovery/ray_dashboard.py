"""Questions to the dashboard of a Ray cluster."""

from __future__ import annotations

import httpx
import msgspec

from sage_inference.config.secrets import Secret, SecretError, fits_header
from sage_inference.discovery.questions import PlainAnswer, QuestionError, ask, question_client
from sage_inference.discovery.source import SourceError
from sage_inference.trust import TrustError
from sage_inference.visible import visible

_QUOTED = 300


class RayDashboard:
    """``url`` is ``http://head:8265``. ``token`` is sent with each question, and never quoted."""

    def __init__(self, url: str, token: Secret | None = None) -> None:
        self._url = url.rstrip("/")
        self._secret = token
        self._client: httpx.AsyncClient | None = None

    async def get(self, path: str, most_bytes: int) -> bytes:
        """The answer to a question. The caller limits the time. Raises ``SourceError``."""
        token = self._token()
        try:
            if self._client is None:
                self._client = question_client(self._url.startswith("https:"))
            headers = {"authorization": f"Bearer {token}"} if token else {}
            reply = await ask(self._client, self._url + path, most_bytes, headers)
            return _body_of(reply, path.partition("?")[0], bool(token))
        except (QuestionError, TrustError, SourceError) as error:
            words = str(error)  # an answer may repeat the token
            raise SourceError(f"the dashboard {words.replace(token, '***') if token else words}") from None

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _token(self) -> str:
        """The token, or nothing. A file is read each time, because tokens are renewed."""
        if self._secret is None:
            return ""
        try:
            token = self._secret.reveal()
        except SecretError as error:
            raise SourceError(f"the token of the source: {error}") from None
        if not fits_header(token):
            raise SourceError("the token of the source holds characters that are not allowed in a header")
        return token


def _body_of(reply: PlainAnswer, path: str, has_token: bool) -> bytes:
    """The body of a usable answer. Raises ``SourceError``, whose text continues a sentence on the dashboard."""
    if reply.status == 200:
        return reply.body
    if reply.status in (401, 403):
        remedy = "another token" if has_token else "a token: set sources[].token"
        raise SourceError(f"refuses the question with {reply.status}; it needs {remedy}")
    if 300 <= reply.status < 400:
        where = visible(reply.location.partition("?")[0].rpartition("@")[2])[:200]
        raise SourceError(
            f"sends on to {where or 'nowhere'}, which is not followed; give that address as ray"
        )
    reason = _reason(reply)
    if reply.status == 404 and not reason:
        raise SourceError(f"has no {path}; is this the address of Ray's dashboard?")
    raise SourceError(f"answers {reply.status}: {reason or reply.beginning or 'nothing more'}")


def _reason(reply: PlainAnswer) -> str:
    """The reason of a refusal, as Ray's routes give it: ``{"error": …}``. Empty if there is none."""
    try:
        found = msgspec.json.decode(reply.body, type=dict[str, object]).get("error")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ""
    return visible(" ".join(found.split()))[:_QUOTED] if isinstance(found, str) else ""
