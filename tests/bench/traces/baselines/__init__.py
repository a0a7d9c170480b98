"""The placement rules of other routers, as policies for the traces: each written from its published rule, none copied.

These routers send a request on when it arrives, so their policies are played without late binding.
"""

from __future__ import annotations

from collections.abc import Callable

from sage_inference.control_plane.policies.base import PlacementPolicy
from sage_inference.replay.run import Run
from tests.bench.traces.baselines.dynamo import Dynamo
from tests.bench.traces.baselines.llm_d import LLMD
from tests.bench.traces.baselines.smg import SMG

# Each is made for one run, because it reads what its router would: engines' metrics, or what began and ended.
BASELINES: dict[str, Callable[[Run], PlacementPolicy]] = {
    LLMD.name: LLMD.of,
    Dynamo.name: Dynamo.of,
    SMG.name: SMG.of,
}
