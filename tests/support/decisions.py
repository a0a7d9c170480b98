"""The decision record, as a caller reads it."""

from __future__ import annotations

from typing import Any

import httpx

from sage_inference.cli.schemas import ATTEMPT
from tests.cli.shape import mistakes
from tests.support.inprocess import ADMIN, InProcess


def attempts(g: InProcess, request_id: str) -> list[dict[str, Any]]:
    with httpx.Client(trust_env=False, verify=False) as client:
        answer = client.get(f"{g.url}/admin/decisions/{request_id}", headers=ADMIN)
    found: list[dict[str, Any]] = answer.raise_for_status().json()["attempts"]
    assert [mistakes(each, ATTEMPT) for each in found] == [[]] * len(found)
    return found
