"""Engines at a name: its addresses by the system's resolver, and SRV records of a real name server."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from sage_inference.config.settings import SourceSettings
from sage_inference.discovery.dns import DnsSource
from sage_inference.discovery.source import Listing, SourceError

NAME = "_vllm._tcp.engines.lan"


class NameServer:
    """Answers over UDP from ``records``: the texts of SRV records by name. A name that is not there does not exist."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}
        self.silent = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, caller = self._socket.recvfrom(4096)
            except OSError:
                return
            if not self.silent:
                self._socket.sendto(self._answer(data), caller)

    def _answer(self, data: bytes) -> bytes:
        question = dns.message.from_wire(data)
        reply = dns.message.make_response(question, recursion_available=True)
        [asked] = question.question
        found = self.records.get(asked.name.to_text(omit_final_dot=True))
        if found is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif found:
            reply.answer.append(dns.rrset.from_text(asked.name, 5, "IN", "SRV", *found))
        return reply.to_wire()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[NameServer]:
    found = NameServer()
    yield found
    found.close()


def look(name: str, server: NameServer | None = None, **keys: str) -> Listing:
    nameservers = [("127.0.0.1", server.port)] if server else []
    source = DnsSource(SourceSettings(dns=name, **keys), nameservers)  # type: ignore[arg-type]
    return asyncio.run(source.look())


def urls(listing: Listing) -> list[str]:
    return [each.settings.url for each in listing.offered]


def test_each_srv_record_is_an_engine_with_the_keys_of_the_source(server: NameServer) -> None:
    server.records[NAME] = ["0 0 8002 gpu2.lan.", "9 0 8001 gpu1.lan.", "0 5 8001 gpu1.lan."]
    listing = look(NAME, server, kind="llm", model="m")
    assert urls(listing) == ["http://gpu1.lan:8001", "http://gpu2.lan:8002"]
    assert {(each.settings.kind, each.settings.model) for each in listing.offered} == {("llm", "m")}


def test_a_name_without_records_is_an_empty_list_and_a_missing_one_is_none(server: NameServer) -> None:
    server.records[NAME] = []
    assert urls(look(NAME, server)) == []
    server.records[NAME] = ["0 0 0 ."]  # the service is not offered
    assert urls(look(NAME, server)) == []
    del server.records[NAME]
    with pytest.raises(SourceError, match=f"there is no name {NAME}"):
        look(NAME, server)


def test_a_silent_name_server_does_not_block_the_loop(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_inference.discovery.dns._ANSWER_S", 0.3)
    server.silent = True

    async def turns_meanwhile() -> int:
        looking = asyncio.create_task(
            DnsSource(SourceSettings(dns=NAME), [("127.0.0.1", server.port)]).look()
        )
        turns = 0
        while not looking.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(SourceError, match="no name server answered"):
            looking.result()
        return turns

    began = time.monotonic()
    assert asyncio.run(turns_meanwhile()) > 5
    assert time.monotonic() - began < 5


def test_addresses_come_from_the_system() -> None:
    assert "http://127.0.0.1:8001" in urls(look("localhost:8001"))
    assert urls(look("127.0.0.2:8001")) == ["http://127.0.0.2:8001"]
    assert urls(look("[::1]:8001")) == ["http://[::1]:8001"]
    with pytest.raises(SourceError, match="has no address"):
        look("no-such-host.invalid:8001")
