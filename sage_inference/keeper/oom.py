"""Whether the kernel killed a process for lack of memory."""

from __future__ import annotations

_RECENT_S = 10.0  # before the engine's end


class OomCounter:
    """The kernel's count of killed processes: of our own cgroup where it counts, otherwise of the machine."""

    def __init__(self, now: float) -> None:
        self._files = _files()
        self._count = self._read()
        self._rose_at: float | None = None
        self.look(now)

    def look(self, now: float) -> None:
        """Call this every second."""
        count = self._read()
        if count > self._count:
            self._rose_at = now
        self._count = count

    def rose(self, now: float) -> bool:
        """Whether the count rose in the last seconds."""
        self.look(now)
        return self._rose_at is not None and now - self._rose_at <= _RECENT_S

    def _read(self) -> int:
        for path in self._files:
            try:
                with open(path, encoding="ascii") as file:
                    for line in file:
                        name, _, value = line.partition(" ")
                        if name == "oom_kill":
                            return int(value)
            except (OSError, ValueError):
                continue
        return 0


def _files() -> list[str]:
    found = []
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                if not controllers and path != "/":
                    found.append(f"/sys/fs/cgroup{path}/memory.events")
                elif controllers == "memory" and path != "/":
                    found.append(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
    except (OSError, ValueError):
        pass
    return [*found, "/proc/vmstat"]
