"""An engine's output: read from its pipe, split into lines, masked, and written to a log that rotates."""

from __future__ import annotations

import os
import select
import time

from sage_inference.keeper.masking import Masker
from sage_inference.log_files.writer import LogWriter

LONGEST = 16 << 10  # bytes of a line
_READ = 64 << 10
_READS = 4  # in a row, so that a flood does not hold up other duties
_DRAINED = 16  # times that; a pipe holds 1 MiB at most
# A bar that is drawn over itself ends with the next drawing, so a piece is shown after this time without an end.
IDLE_S = 0.3


class Output:
    """The reading end of the pipe, and the log. No failure of the log may end or hold up the engine."""

    def __init__(self, pipe: int, log: LogWriter, masker: Masker) -> None:
        os.set_blocking(pipe, False)
        self.pipe = pipe
        self.unfinished_since: float | None = None
        self._log = log
        self._mask = masker
        self._piece = b""
        self._skipped = 0  # bytes of the line beyond the longest
        self._lost = 0  # lines
        self._kept = LONGEST + masker.longest  # a secret across the cut is masked before it is cut

    def read(self) -> bool:
        """Take what has come. False at the end of the output, when every writer has ended."""
        for _ in range(_READS):
            try:
                data = os.read(self.pipe, _READ)
            except BlockingIOError:
                return True
            if not data:
                self.flush()
                return False
            self._take(data)
        return True

    def drain(self) -> None:
        """Take what is left, when the engine's processes have ended. A foreign process may still write."""
        pipe = select.poll()
        pipe.register(self.pipe, select.POLLIN)
        for _ in range(_DRAINED):
            if not pipe.poll(0) or not self.read():
                return

    def flush(self) -> None:
        """Write the line that has no end yet."""
        if self._piece or self._skipped:
            self._append(self._line(self._piece))
        self._piece, self._skipped, self.unfinished_since = b"", 0, None

    def note(self, text: str) -> None:
        """A line of the keeper's own."""
        self._append(self._mask(f"sage-inference: {text}".encode("utf-8", "replace")) + b"\n")

    def mark(self) -> dict[str, int]:
        """The place in the log where the next line will stand, if the log is not rotated before."""
        try:
            found = os.stat(self._log.path)
        except OSError:
            return {"device": 0, "inode": 0, "offset": 0}
        return {"device": found.st_dev, "inode": found.st_ino, "offset": found.st_size}

    def close(self) -> None:
        self.flush()
        os.close(self.pipe)
        self._log.close()

    def _take(self, data: bytes) -> None:
        # \r\n is one end. Empty lines are left out: bars that are drawn over themselves make many.
        *ended, rest = data.replace(b"\r", b"\n").split(b"\n")
        if ended:
            self._extend(ended[0])
            ended[0] = self._piece
            written = self._plain(ended)
            if written is None:
                written = self._one_by_one(ended)
            self._piece, self._skipped = b"", 0
            if written:
                self._append(written)
        self._extend(rest)
        self.unfinished_since = time.monotonic() if self._piece else None

    def _plain(self, lines: list[bytes]) -> bytes | None:
        """The lines as they are, if none is too long or may have a secret. Most are so, and a flood is read faster."""
        if self._skipped or max(map(len, lines)) > LONGEST:
            return None
        joined = b"\n".join(filter(None, lines))
        return None if self._mask.may_find(joined) else joined + b"\n" * bool(joined)

    def _one_by_one(self, lines: list[bytes]) -> bytes:
        written = [self._line(lines[0])] if lines[0] else []
        for line in lines[1:]:
            self._piece, self._skipped = b"", 0
            self._extend(line)
            if line:
                written.append(self._line(self._piece))
        return b"".join(written)

    def _extend(self, part: bytes) -> None:
        room = self._kept - len(self._piece)
        self._piece += part[:room]
        self._skipped += max(0, len(part) - room)

    def _line(self, piece: bytes) -> bytes:
        line = self._mask(piece)
        left_out = self._skipped + max(0, len(line) - LONGEST)
        return line[:LONGEST] + (b" ... [%d bytes left out]\n" % left_out if left_out else b"\n")

    def _append(self, lines: bytes) -> None:
        try:
            if self._lost:
                note = b"sage-inference: %d lines were lost, because they could not be written\n" % self._lost
                self._log.append(note)
                self._lost = 0
            self._log.append(lines)
        except OSError:
            self._lost += lines.count(b"\n")
