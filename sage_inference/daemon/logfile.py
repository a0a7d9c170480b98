"""The targets of log records: a rotating file of JSON lines, and a terminal."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from sage_inference.config.settings import LoggingSettings
from sage_inference.log_files.writer import LogWriter
from sage_inference.visible import visible

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# color_message is uvicorn's: the message again, with terminal escapes.
_LEFT_OUT = _STANDARD | {"color_message"}
_COLOURS = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "31;1"}
# These log every probe and connection at info and debug, which is too much for all of our levels.
_CHATTY = ("httpx", "httpcore", "uvicorn", "asyncio")


def configure(
    path: Path, settings: LoggingSettings, *, stream: TextIO | None = None, colour: bool | None = None
) -> None:
    """Log to ``path``, and to ``stream`` if given, from now on. A further call replaces the earlier targets.

    Lines are appended, so earlier ones stay. ``colour`` is False if the user wants none.
    """
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if isinstance(handler, (JsonLinesFile, Terminal))]
    handlers: list[logging.Handler] = [_file(path, settings, ours)]
    if stream is not None:
        handlers.append(Terminal(stream, colour))
    root.handlers[:] = [*(handler for handler in root.handlers if handler not in ours), *handlers]
    for handler in ours:
        if handler not in handlers:
            handler.close()
    root.setLevel(settings.level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    # Otherwise a full disk or a closed terminal would turn each line into a traceback.
    logging.raiseExceptions = False


def _file(path: Path, settings: LoggingSettings, known: Sequence[logging.Handler]) -> JsonLinesFile:
    """The present handler if it writes to ``path``, because it may have lost lines to report. Otherwise a new one."""
    for handler in known:
        if isinstance(handler, JsonLinesFile) and handler.writer.path == path:
            handler.writer.max_bytes, handler.writer.backups = settings.max_bytes, settings.backups
            return handler
    return JsonLinesFile(path, settings.max_bytes, settings.backups)


def log_uncaught() -> None:
    """Log uncaught exceptions, because a background process has no terminal that shows them."""

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
    """One object a line: time (UTC), level, logger, message, the fields of ``extra``, traceback.

    All but printable ASCII is escaped, so that no value can forge a line or control a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        document.update((k, v) for k, v in vars(record).items() if k not in _LEFT_OUT and k not in document)
        if record.exc_info and record.exc_info[0] is not None:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str).replace("\x7f", "\\u007f")


class HumanFormatter(logging.Formatter):
    """``12:03:04 warning message``. A traceback follows on lines of its own."""

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


class Terminal(logging.StreamHandler[TextIO]):
    """Shows each record on the terminal of a gateway in the foreground."""

    def __init__(self, stream: TextIO, colour: bool | None = None) -> None:
        super().__init__(stream)
        self.setFormatter(HumanFormatter(colour=colour is not False and wants_colour(stream)))


class JsonLinesFile(logging.Handler):
    """Appends each record to the log as a line of JSON.

    Lines that cannot be written are counted. The first one is reported on standard error, and the number
    of lost lines is the first line of the log as soon as it takes lines again.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        super().__init__()
        self.writer = LogWriter(path, max_bytes, backups)
        self.lost = 0
        self._reason = ""
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        try:
            if self.lost:
                message = "%d log lines were lost while they could not be written: %s"
                self.writer.append(self._line(_warning(message, self.lost, self._reason)))
                self.lost = 0
            self.writer.append(line)
        except OSError as error:
            self._lose(error)
        else:
            self._report_rotation()

    def close(self) -> None:
        self.writer.close()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("ascii", "backslashreplace") + b"\n"

    def _lose(self, error: OSError) -> None:
        self._reason = f"{error.filename}: {error.strerror}"
        if not self.lost:
            # Standard error may be a file on a full disk, which must not make a log handler fail.
            with suppress(OSError, ValueError, AttributeError):
                print(visible(f"log lines are lost: {self._reason}"), file=sys.stderr, flush=True)
        self.lost += 1

    def _report_rotation(self) -> None:
        error, self.writer.rotation_error = self.writer.rotation_error, None
        if error is not None:
            message = "the log grows beyond logging.max_bytes, because it cannot be rotated: %s: %s"
            with suppress(OSError):
                self.writer.append(self._line(_warning(message, self.writer.path, error.strerror)))


def _warning(message: str, *values: Any) -> logging.LogRecord:
    name = "sage_inference.daemon.log"
    return logging.LogRecord(name, logging.WARNING, __file__, 0, message, values, None)


def wants_colour(stream: TextIO) -> bool:
    """True on a terminal that can show colours, unless NO_COLOR is set. FORCE_COLOR overrides TERM.

    A log that goes to a file or a pipe is read by programs: FORCE_COLOR, set for other tools, must not colour it.
    """
    if os.environ.get("NO_COLOR") or (not stream.isatty() and _has_descriptor(stream)):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _has_descriptor(stream: TextIO) -> bool:
    """Whether the stream is a file, a pipe or a terminal, and not an object of a program that shows text itself."""
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
