"""The parts of a line of an engine's log, and the lines that show why it ended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sage_inference.visible import without_colours

# vLLM: ``(EngineCore pid=12) ERROR 11-30 17:08:15 [core.py:133] text``; its API server leaves both out in a traceback.
_VLLM = re.compile(
    r"(?:\((?P<process>[A-Za-z_][\w-]*)[^)]*\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?)?"
)
# TEI: ``2026-11-30T17:08:15.776080Z ERROR text_embeddings_backend: backends/src/lib.rs:567: text``.
_TEI = re.compile(r"\d{4}-\d\d-\d\dT\S+\s+(?P<level>[A-Z]+)\s+[\w:{}\" =-]+?: \S+\.rs:\d+: ")
# Python's own form, which infinity uses: ``INFO     2026-11-30 17:08:15,776 infinity_emb INFO: text``.
_PYTHON = re.compile(
    r"(?P<level>INFO|WARNING|ERROR|CRITICAL)[: ]\s*(?:\d{4}-\d\d-\d\d [\d:,]+ )?(?:[\w.]+ [A-Z]+: )?"
)
# llama.cpp b10434: ``0.00.018.283 E text``. The beginning is the time since the start.
_LLAMA = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} (?P<level>[DIWE]) ")
_LEVELS = {"D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR"}
_EXCEPTION = re.compile(r"(?:[A-Za-z_][\w]*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit)\b(?::\s|$)")
_ERROR = re.compile(
    r"(?:Error|error|fatal|FATAL):\s+\S|^thread '.*' panicked at|error loading model: |^\w+: failed to \w"
)
_VALIDATION = re.compile(r"\d+ validation errors? for \w+$")
_PROBLEM_LEVELS = ("ERROR", "CRITICAL")
# Lines about a failure that do not have its cause.
_EMPTY = re.compile(
    r"EngineCore failed to start|Traceback \(most recent|EngineCore encountered (?:a fatal error|an issue)"
    r"|AsyncLLM output_handler failed|See root cause above|WorkerProc failed to start|^\s*File \""
    r"|EngineDeadError|failed due to an exception in a background process|Engine core initialization failed|WorkerProc hit an exception|Application startup failed"
)
# Python and its libraries print these after the end of what they were used for.
_AFTERWARDS = re.compile(
    r"^nanobind:|^ - (?:leaked|\.\.\.)|resource_tracker|warnings\.warn|^See https://nanobind|\[shutdown\]"
    r"|destroy_process_group|cleaning up before exit|^INFO:\s+(?:Shutting|Waiting|Application|Finished)|^\s*[\^~]+\s*$|^[\s█▄▀]*$"
)
# Longer than any line that the table knows. A pattern may take time in proportion to the square of a line.
_LONGEST_PART = 3000
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class LogLine:
    """``level`` and ``process`` are empty where a line has none."""

    text: str
    level: str = ""
    process: str = ""

    @property
    def is_problem(self) -> bool:
        return self.level in _PROBLEM_LEVELS

    @property
    def names_a_cause(self) -> bool:
        """Whether the line is the text of an error, and not about one."""
        if _EMPTY.search(self.text) or (self.level and not self.is_problem):
            return False
        return bool(_EXCEPTION.match(self.text) or _ERROR.search(self.text))


def parts_of(lines: Iterable[str]) -> Iterator[LogLine]:
    """The lines with their prefixes taken off. Progress that is separated by ``\\r`` is several lines."""
    for line in lines:
        for part in line.rstrip("\n").split("\r"):
            yield part_of(without_colours(part[:_LONGEST_PART]))


def part_of(line: str) -> LogLine:
    for pattern in (_TEI, _PYTHON, _LLAMA):
        found = pattern.match(line)
        if found:
            return LogLine(line[found.end() :], _LEVELS.get(found["level"], found["level"]))
    found = _VLLM.match(line)
    assert found is not None
    return LogLine(line[found.end() :], found["level"] or "", found["process"] or "")


def first_error(lines: Sequence[LogLine]) -> str | None:
    """The first error, which is the root of those that follow."""
    for at, line in enumerate(lines):
        if line.names_a_cause:
            return _with_roots(lines, at)
    for line in lines:
        if (
            line.is_problem
            and line.text.strip()
            and not _EMPTY.search(line.text)
            and not line.text.startswith(" ")
        ):
            return cut(line.text)
    return None


def last_words(lines: Sequence[LogLine]) -> str | None:
    """The last line that is not about the end itself."""
    for line in reversed(lines):
        if line.text.strip() and not _AFTERWARDS.search(line.text) and not _EMPTY.search(line.text):
            return cut(line.text)
    return None


def _with_roots(lines: Sequence[LogLine], at: int) -> str:
    """The text of an error. One of Rust is followed by its causes, and one of pydantic by its reason."""
    text = lines[at].text.strip()
    if text.startswith("thread '") and at + 1 < len(lines):
        return cut(lines[at + 1].text)
    if _VALIDATION.search(text) and at + 1 < len(lines):
        return cut(lines[at + 1].text.strip().removeprefix("Value error, ").partition(" [type=")[0])
    following = [line.text.strip() for line in lines[at + 1 : at + 12]]
    if "Caused by:" in following[:2]:
        causes = [each for each in following[following.index("Caused by:") + 1 :] if each]
        if causes:
            root = re.sub(r"^\d+: ", "", causes[-1])
            return cut(f"{text.removeprefix('Error: ')}: {root}")
    return cut(text.removeprefix("Error: "))


def cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
