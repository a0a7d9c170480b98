"""Writes a log as an engine does: each message in one write, so that processes do not mix their lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def write(text: str, stream: int = 1) -> None:
    """Write all of ``text``. A reader that is gone is no error, because it does not end a real engine either."""
    data = text.encode("utf-8", "replace")
    while data:
        try:
            data = data[os.write(stream, data) :]
        except OSError:
            return


class VLLMLog:
    """Lines as vLLM 0.32 prints them: the process, the level, the time and the place in the source."""

    def __init__(self, process: str) -> None:
        self._lead = f"({process} pid={os.getpid()}) "

    def info(self, place: str, message: str) -> None:
        self._line("INFO", place, message)

    def warning(self, place: str, message: str) -> None:
        self._line("WARNING", place, message)

    def error(self, place: str, message: str) -> None:
        self._line("ERROR", place, message)

    def bare(self, text: str) -> None:
        """Lines without level and time, such as a traceback that Python prints."""
        write("".join(f"{self._lead}{line}\n" for line in text.split("\n")))

    def _line(self, level: str, place: str, message: str) -> None:
        lead = f"{self._lead}{level} {time.strftime('%m-%d %H:%M:%S')} [{place}] "
        # All lines of a message but the last end with \r\n, as recorded.
        write("\r\n".join(lead + line for line in message.split("\n")) + "\n")


class TEILog:
    """Lines as TEI prints them, in colours also into a file or a pipe, unless ``NO_COLOR`` is set."""

    def __init__(self) -> None:
        plain = bool(os.environ.get("NO_COLOR"))
        self._paint: Callable[[str, str], str] = lambda code, text: (
            text if plain else f"\x1b[{code}m{text}\x1b[0m"
        )

    def info(self, module: str, place: str, message: str) -> None:
        self._line(self._paint("32", " INFO"), module, place, message)

    def warn(self, module: str, place: str, message: str) -> None:
        self._line(self._paint("33", " WARN"), module, place, message)

    def error(self, module: str, place: str, message: str) -> None:
        self._line(self._paint("31", "ERROR"), module, place, message)

    def _line(self, level: str, module: str, place: str, message: str) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e6):06d}Z"
        file, number = place.rsplit(":", 1)
        dim = self._paint
        where = f"{dim('2', module)}{dim('2', ':')} {dim('2', file)}{dim('2', ':')}{dim('2', number + ':')}"
        write(f"{dim('2', stamp)} {level} {where} {message}\n")


class LlamaLog:
    """Lines as llama.cpp b10434 prints them: the time since the start, the level, the place."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def line(self, level: str, message: str) -> None:
        ms, us = divmod(int((time.monotonic() - self._began) * 1e6), 1000)
        s, ms = divmod(ms, 1000)
        write(f"{s // 60}.{s % 60:02}.{ms:03}.{us:03} {level} {message}\n", 2)
