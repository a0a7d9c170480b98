"""Where log lines go: a rotating file of JSON lines, and a person's terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from sage_inference.config.settings import LoggingSettings
from sage_inference.visible import visible

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31;1"}
# They tell of every probe and connection at info.
_CHATTY = ("httpx", "httpcore", "uvicorn", "asyncio")


def configure(path: Path, settings: LoggingSettings, *, stream: TextIO | None = None) -> None:
    """Log to ``path``, and to ``stream`` if given, from now on. Called again, it takes the place of before.

    What was logged earlier stays: lines are appended.
    """
    handlers: list[logging.Handler] = [JsonLinesFile(path, settings.max_bytes, settings.backups)]
    if stream is not None:
        terminal = logging.StreamHandler(stream)
        terminal.setFormatter(HumanFormatter(colour=wants_colour(stream)))
        handlers.append(terminal)
    root = logging.getLogger()
    old, root.handlers[:] = (
        [h for h in root.handlers if getattr(h, "_sage", False)],
        [
            *(h for h in root.handlers if not getattr(h, "_sage", False)),
            *handlers,
        ],
    )
    for handler in handlers:
        handler._sage = True  # type: ignore[attr-defined]
    for handler in old:
        handler.close()
    level = settings.level.upper()
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(
            max(logging.WARNING, root.level) if level != "DEBUG" else logging.INFO
        )
    logging.captureWarnings(True)
    # A full disk or a closed terminal must not turn each line into a traceback.
    logging.raiseExceptions = False


def log_uncaught() -> None:
    """Exceptions that nobody caught go to the log; who watches a background process otherwise?"""

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None, where: str = ""
    ) -> None:
        if issubclass(kind, (KeyboardInterrupt, SystemExit)):
            return
        logging.getLogger("sage_inference").critical(
            "unexpected %s%s: %s", kind.__name__, where, error, exc_info=(kind, error, trace)
        )

    def in_thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else "?"
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback, f" in thread {name}")

    sys.excepthook = uncaught
    threading.excepthook = in_thread


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC), level, logger, message, what was given as ``extra``, traceback.

    Everything but printable ASCII is escaped, so no value can forge a line or steer a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        document.update((k, v) for k, v in vars(record).items() if k not in _STANDARD and k not in document)
        if record.exc_info and record.exc_info[0] is not None:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str).replace("\x7f", "\\u007f")


class HumanFormatter(logging.Formatter):
    """``12:03:04 warning message``; a traceback follows on lines of its own."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = record.levelname.lower()
        if self._colour and (code := _COLOURS.get(record.levelno)):
            level = f"\x1b[{code}m{level}\x1b[0m"
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {level} {visible(record.getMessage())}"
        if record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info).split("\n")
            line = "\n".join([line, *(f"  {visible(part)}" for part in trace)])
        return line


class JsonLinesFile(RotatingFileHandler):
    """Rotates by size; only its owner may read it. Zero backups keep the current file alone."""

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        self._keeps_none = backups == 0
        super().__init__(path, maxBytes=max_bytes, backupCount=max(1, backups), encoding="utf-8", delay=True)
        self.setFormatter(JsonFormatter())

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return open(os.open(self.baseFilename, flags, 0o600), "a", encoding="utf-8")  # noqa: PTH123, SIM115

    def doRollover(self) -> None:  # noqa: N802 - the name is logging's
        super().doRollover()
        if self._keeps_none:
            Path(f"{self.baseFilename}.1").unlink(missing_ok=True)


def wants_colour(stream: TextIO) -> bool:
    """Colour on a terminal that can show it, unless NO_COLOR; FORCE_COLOR overrules."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
