"""How much the kernel keeps of what nobody reads."""

from __future__ import annotations

from pathlib import Path


def more_than_the_kernel_buffers() -> int:
    """Returns a number of bytes that no two TCP connections in a row can hold unread.

    Linux lets the buffers of a connection grow up to the third figure of these two files; with an ordinary set-up that is
    6 MB to receive, with a generous one 32 MB. A smaller answer could fit into them whole, however slow its reader.
    """
    most = [int(Path("/proc/sys/net/ipv4", name).read_text().split()[2]) for name in ("tcp_rmem", "tcp_wmem")]
    return 2 * sum(most) + (16 << 20)
