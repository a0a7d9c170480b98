"""A request to TEI's root route: it is one of the routes that TEI has by name."""

from __future__ import annotations

from copy import copy

from sage_inference.gateway.embeddings.exchange import EmbeddingExchange
from sage_inference.gateway.relay.exchange import Exchange
from sage_inference.requests.embedding import ROUTES as MERGED
from sage_inference.requests.root_route import route_meant
from sage_inference.requests.routes import ROUTES


class RootExchange(EmbeddingExchange):
    """From its body on an exchange of the route that was meant. Texts to embed share calls with others'."""

    def begin(self, body: bytes) -> None:
        route = ROUTES[route_meant(self.gateway.registry.is_served, body)]
        _, mark, query = self.head.target.partition(b"?")
        self.head = copy(self.head)
        self.head.is_cached = False  # the same bytes may mean another route, with another body
        self.head.route, self.head.target = route, route.path.encode() + mark + query
        super().begin(body)

    def submit(self) -> None:
        """Raises ``Refusal``."""
        if self.route.path in MERGED:
            super().submit()
        else:
            Exchange.submit(self)
