"""The source ``dns``: the addresses of a name, or its SRV records."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sage_inference.config.settings import SourceSettings
from sage_inference.discovery.entries import entry_of
from sage_inference.discovery.source import Listing, Offered, SourceError
from sage_inference.discovery.threads import BlockingCall
from sage_inference.netloc import netloc

if TYPE_CHECKING:
    from dns.resolver import Resolver

_ANSWER_S = 10.0


class DnsSource:
    """Asks the system's resolver for ``host:port``, and the name servers of ``/etc/resolv.conf`` for SRV records.

    Each address, or each host of a record, is one engine. A name that does not exist gives no list: a name server
    that has lost a zone answers the same. A name without addresses gives an empty one.
    ``nameservers``: others than those of this machine, as address and port.
    """

    kind = "dns"

    def __init__(self, settings: SourceSettings, nameservers: Sequence[tuple[str, int]] = ()) -> None:
        assert settings.dns is not None
        self.address = settings.dns
        self._settings = settings
        self._nameservers = nameservers
        self._blocking = BlockingCall(f"the question for {settings.dns}")

    async def look(self) -> Listing:
        """The engines at the name. Raises ``SourceError``."""
        ask = self._records if self.address.startswith("_") else self._addresses
        places = await self._blocking.of(ask)
        entries = [entry_of(self._settings, f"http://{place}") for place in sorted(set(places))]
        return Listing(tuple(map(Offered, entries)))

    async def aclose(self) -> None: ...

    def _addresses(self) -> list[str]:
        host, _, port = self.address.rpartition(":")
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a name"
            raise SourceError(f"{host} has no address: {reason}") from None
        return [netloc(str(address[0]), int(port)) for *_, address in found]

    def _records(self) -> list[str]:
        # Here, because it takes 40 ms to load, and few gateways need it.
        from dns.exception import DNSException, Timeout
        from dns.resolver import NXDOMAIN

        try:
            return list(self._asked())
        except NXDOMAIN:
            raise SourceError(f"there is no name {self.address}") from None
        except Timeout:
            raise SourceError(f"no name server answered within {_ANSWER_S:g} s") from None
        except (DNSException, OSError) as error:
            raise SourceError(f"the name servers give no answer: {error}") from None

    def _asked(self) -> Iterator[str]:
        resolver = self._resolver()
        answer = resolver.resolve(self.address, "SRV", raise_on_no_answer=False, lifetime=_ANSWER_S)
        for record in answer:
            target = str(record.target).rstrip(".")
            if target:  # a lone dot: the service is not offered here
                yield netloc(target, record.port)

    def _resolver(self) -> Resolver:
        from dns.nameserver import Do53Nameserver
        from dns.resolver import Resolver

        resolver = Resolver(configure=not self._nameservers)
        if self._nameservers:
            resolver.nameservers = [Do53Nameserver(address, port) for address, port in self._nameservers]
        return resolver
