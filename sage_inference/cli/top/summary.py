"""The lines above the tables: the gateway, its requests, its queue and its GPUs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from sage_inference.cli.enginetext import span
from sage_inference.cli.numbers import count, duration
from sage_inference.cli.top.grid import Line, Styled
from sage_inference.cli.top.rows import Row
from sage_inference.cli.top.seen import Picture
from sage_inference.cli.top.tables import TONES, bar
from sage_inference.visible import visible

_MOST_GPUS = 8
_BAR, _SHORT_BAR = 20, 10
_FULL = 0.95
_NAMED_FROM = 72  # columns of a terminal that has room for the names of GPUs

Part = Sequence[Styled]


def summary(picture: Picture, width: int | None) -> list[Line]:
    """The lines, of which words are wrapped to ``width``."""
    lines = _flow(_gateway(picture), width)
    if picture.outage is not None:
        lines += _flow([[Styled(f"{visible(picture.outage)}; trying again", "bold red")]], width)
    elif picture.news is not None:
        lines += _flow([[Styled(picture.news, "yellow")]], width)
    lines += _requests(picture, width) + _flow(_queue(picture), width)
    lines += _remark("warning: ", picture.document["warnings"], "yellow")
    lines += _remark("", [f"{each['name']}: {each['note']}" for each in _in_trouble(picture)], "red")
    gpus = picture.document["gpus"]
    lines += [_gpu(each, width) for each in gpus[:_MOST_GPUS]]
    if len(gpus) > _MOST_GPUS:
        lines.append([Styled(f"and {len(gpus) - _MOST_GPUS} more GPUs", "dim")])
    return [*lines, []]


def _remark(before: str, texts: Sequence[str], style: str) -> list[Line]:
    """The first of the texts, and the number of the others."""
    if not texts:
        return []
    more = f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""
    return [[Styled(f"{before}{visible(texts[0])}{more}", style)]]


def _in_trouble(picture: Picture) -> list[Row]:
    return [each for each in picture.tables["engines"] if TONES.get(each["state"]) == "red" and each["note"]]


def _flow(parts: Iterable[Part], width: int | None) -> list[Line]:
    """The parts one after the other, with as many on each line as have room."""
    lines: list[Line] = [[]]
    used = 0
    for part in parts:
        size = sum(cell_len(piece.text) for piece in part)
        if lines[-1] and width is not None and used + 2 + size > width:
            lines.append([])
            used = 0
        if lines[-1]:
            lines[-1].append(Styled("  "))
            used += 2
        lines[-1] += part
        used += size
    return lines


def _gateway(picture: Picture) -> list[Part]:
    document = picture.document
    state, tone = document["state"], "green" if document["state"] == "running" else "yellow"
    if picture.outage is not None:
        state, tone = "lost", "red"
    at = time.strftime("%H:%M:%S", time.localtime(document["at_ms"] / 1000))
    parts: list[Part] = [
        [Styled(state, f"bold {tone}"), Styled(f" {document['address']}")],
        [Styled("up ", "dim"), Styled(span(document["uptime_s"]))],
        [Styled("policy ", "dim"), Styled(document["policy"])],
        [Styled("at ", "dim"), Styled(at)],
    ]
    if document["simulated"]:
        parts.append([Styled("simulated", "yellow")])
    return parts


def _requests(picture: Picture, width: int | None) -> list[Line]:
    document = picture.document
    requests, rates = document["requests"], document["rates"]
    parts: list[Part] = [
        _figure(count(requests["in_flight"]), "running"),
        _figure(count(requests["queued"]), "waiting", "yellow" if requests["queued"] else ""),
    ]
    if picture.has_rates:
        prompts = _figure(_rate(rates["prompt_tokens_per_s"]), "in")
        parts.append(_figure(_rate(rates["requests_per_s"]), "requests/s"))
        parts.append([*_figure(_rate(rates["tokens_per_s"]), "tokens/s out, "), *prompts])
        if rates["errors_per_s"]:
            parts.append(_figure(_rate(rates["errors_per_s"]), "errors/s", "red"))
    parts.append(_figure(count(requests["errors"]), "errors"))
    lines = _flow(parts, width)
    all_lines = _flow([*parts, _figure(count(requests["total"]), "done")], width)
    return all_lines if len(all_lines) == len(lines) else lines


def _figure(number: str, words: str, style: str = "") -> Part:
    return [Styled(number, f"bold {style}".strip()), Styled(f" {words}", style or "dim")]


def _rate(number: float) -> str:
    return f"{number:.1f}" if 0 < number < 100 else count(number)


def _queue(picture: Picture) -> list[Part]:
    queue = picture.document["queue"]
    if not queue["requests"] and not queue["held"]:
        return [[Styled("queue empty", "dim")]]
    parts: list[Part] = [[Styled("queue ", "dim"), Styled(count(queue["requests"]), "bold yellow")]]
    for name, requests in queue["by_priority"].items():
        style = TONES.get(name, "") if requests else "dim"
        parts.append([Styled(f"{name} ", "dim"), Styled(count(requests), style)])
    if queue["requests"]:
        parts.append([Styled("oldest ", "dim"), Styled(duration(queue["oldest_ms"] / 1000))])
    if queue["overdue"]:
        parts.append([Styled(f"{count(queue['overdue'])} overdue", "red")])
    if queue["held"]:
        parts.append([Styled(f"{count(queue['held'])} for an engine that starts", "yellow")])
    return parts


def _gpu(gpu: Row, width: int | None) -> Line:
    used, total = gpu["memory_used_mb"] / 1024, gpu["memory_total_mb"] / 1024
    share, percent = used / total if total else 0.0, gpu["use_percent"]
    is_wide = width is None or width >= _NAMED_FROM
    size = _BAR if is_wide else _SHORT_BAR
    memory = f"{used:.1f}/{total:.0f} GiB"
    line = [
        Styled(f"GPU {gpu['index']} mem ", "dim"),
        Styled(bar(share, size), "red" if share > _FULL else "green"),
        Styled(f" {memory:<15}"),
        Styled(" use ", "dim"),
        Styled(bar((percent or 0) / 100, size), "cyan"),
        Styled("   -" if percent is None else f" {percent:3.0f}%"),
    ]
    return [*line, Styled(f"  {visible(gpu['name'])}", "dim")] if is_wide else line
