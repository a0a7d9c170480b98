"""Whether the engines of a Ray cluster end with its head."""

from __future__ import annotations

import msgspec

from sage_inference.config.ray_names import APPLICATIONS_PATH
from sage_inference.discovery.ray_dashboard import RayDashboard
from sage_inference.discovery.ray_document import MOST_BYTES
from sage_inference.discovery.source import SourceError

# The head's own log. Ray shows the storage of its state nowhere else.
_LOG = "/api/v0/logs/file?node_id={}&filename=gcs_server.out&lines=-1"
_MOST_LOG = 4 << 20
_IN_MEMORY = b"GCS storage type is StorageType::IN_MEMORY"


class _Controller(msgspec.Struct):
    node_id: str = ""


class _HeadDetails(msgspec.Struct):
    controller_info: _Controller


async def ends_with_head(dashboard: RayDashboard) -> bool:
    """True if Ray's head keeps its state in its memory alone.

    A minute after the end of such a head all other processes of Ray end too, and the engines with them. False for a
    state in Redis, and where Ray does not show it.
    """
    try:
        details = msgspec.json.decode(await dashboard.get(APPLICATIONS_PATH, MOST_BYTES), type=_HeadDetails)
        node = details.controller_info.node_id  # Serve's controller runs on the head
        return node.isalnum() and _IN_MEMORY in await dashboard.get(_LOG.format(node), _MOST_LOG)
    except (SourceError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return False
