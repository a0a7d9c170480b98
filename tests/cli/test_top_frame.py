"""What ``top`` shows for a document, a choice and a size, without a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from sage_inference.cli.liveschemas import LIVE
from sage_inference.cli.requestschema import REQUEST
from sage_inference.cli.top.feed import Glance, Outage
from sage_inference.cli.top.frame import Size, frame
from sage_inference.cli.top.seen import Picture, Seen
from sage_inference.cli.top.view import Sorting, TopView
from tests.cli.live_state import engine, instance, live, request
from tests.cli.shape import mistakes
from tests.support.cpu import cpu_time

GPU = {
    "index": 0,
    "name": "NVIDIA H200",
    "memory_used_mb": 71680,
    "memory_total_mb": 143360,
    "use_percent": 87,
}
FULL = Size(120, 40)


def picture(document: dict[str, Any] | None = None, *ended: dict[str, Any]) -> Picture:
    seen = Seen()
    seen.take(Glance(document or live(), list(ended)))
    found = seen.picture()
    assert found is not None
    return found


def text(shown: Picture, view: TopView | None = None, size: Size = FULL) -> str:
    lines = frame(shown, view or TopView(), size)
    return "\n".join("".join(piece.text for piece in line).rstrip() for line in lines)


def names(shown: str) -> list[str]:
    """The engines in the order in which they stand."""
    return [line.split()[0] for line in shown.splitlines() if line.startswith("gpu-")]


def press(view: TopView, shown: Picture, *keys: str) -> None:
    frame(shown, view, FULL)
    for key in keys:
        assert not view.press(key)
        frame(shown, view, FULL)


def test_the_documents_of_these_tests_are_as_the_gateway_makes_them() -> None:
    queued = live(instance("a"), engines=[engine("b")], gpus=[GPU], running=[request(1, ended=False)])
    assert mistakes(queued, LIVE) == []
    assert mistakes(request(1), REQUEST) == []


def test_gpus_queue_engines_and_requests_are_shown() -> None:
    queue = live()["queue"] | {"requests": 12, "oldest_ms": 2500.0, "overdue": 3}
    queue["by_priority"] = {"critical": 2, "high": 0, "normal": 10, "low": 0, "background": 0}
    document = live(instance("gpu-0", gpu="cuda:0", queued=12), gpus=[GPU], queue=queue)
    shown = text(picture(document, request(1, ttft_ms=1250.0, tenant="lab", queue_ms=35.0, status=503, outcome="failed")))  # fmt: skip
    assert "queue 12  critical 2  high 0  normal 10  low 0  background 0  oldest 2.5 s  3 overdue" in shown
    assert "GPU 0 mem ██████████░░░░░░░░░░ 70.0/140 GiB" in shown
    assert "87%  NVIDIA H200" in shown
    [row] = [line.split() for line in shown.splitlines() if line.startswith("gpu-0")]
    assert row == "gpu-0 qwen2.5-7b ready 3/8 12 20 ms 9.5 ms 310 2.5 cuda:0 70.0/140 GiB 87%".split()
    [row] = [line.split() for line in shown.splitlines() if "503" in line]
    assert (
        row[1:] == "chat qwen2.5-7b lab gpu-0 cheapest normal 35 ms 1.25 s 400 ms ~10 120 503 failed".split()
    )


@pytest.mark.parametrize("size", [(width, height) for width in (1, 2, 7, 20, 40, 60, 80, 99, 131) for height in (1, 2, 3, 5, 9, 14, 24, 50)])  # fmt: skip
def test_no_size_is_exceeded(size: tuple[int, int]) -> None:
    wide = "模型\x1b[31m🙂\n" * 9
    ended = [request(number, model=wide, tenant=wide) for number in range(60)]
    shown = picture(live(*[instance(f"gpu-{i}{wide}", last_error=wide, gpu=wide) for i in range(20)], gpus=[GPU] * 9, warnings=[wide]), *ended)  # fmt: skip
    for focus in ("engines", "requests", "queue"):
        view = TopView(focus=focus)
        for keys in ((), ("down", "end"), ("z",), ("enter",), ("x", "?"), ("x", "/", "a"), ("enter", "p")):
            for key in keys:
                view.press(key)
            lines = frame(shown, view, Size(*size))
            assert len(lines) <= size[1]
            assert max(sum(cell_len(piece.text) for piece in line) for line in lines) <= size[0]
            assert all(piece.text.isprintable() for line in lines for piece in line)


def test_sixty_columns_have_what_matters() -> None:
    shown = text(picture(live(), request(1)), size=Size(60, 24)).splitlines()
    heads = [line.split() for line in shown if line.isupper() and ("STATE" in line or "STATUS" in line)]
    assert {"ENGINE", "STATE", "LOAD", "QUEUE", "TTFT", "TPOT", "TOKENS/S"} <= set(heads[0])
    assert {"MODEL", "ENGINE", "QUEUE", "TTFT", "TOKENS/S", "STATUS"} <= set(heads[1])


def test_the_largest_numbers_come_first_and_unknown_ones_last() -> None:
    loads = {"gpu-0": 20.0, "gpu-1": None, "gpu-2": 900.0, "gpu-3": 3.0}
    shown = picture(live(*[instance(name, ttft_ms=ttft) for name, ttft in loads.items()]))
    view = TopView()
    view.table.sorting = Sorting("ttft")
    assert names(text(shown, view)) == ["gpu-2", "gpu-0", "gpu-3", "gpu-1"]
    press(view, shown, "r")
    assert names(text(shown, view)) == ["gpu-3", "gpu-0", "gpu-2", "gpu-1"]
    assert "▲TTFT" in text(shown, view)
    press(view, shown, "left", "left", "left", "left", "left")
    assert "ENGINE▲" in text(shown, view)
    assert names(text(shown, view)) == ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]
    press(view, shown, "left", "r")  # the gateway's own order, reversed
    assert names(text(shown, view)) == ["gpu-3", "gpu-2", "gpu-1", "gpu-0"]


def test_a_filter_is_typed_kept_and_taken_back() -> None:
    shown = picture(live(*[instance(f"gpu-{i}", models=[f"model-{i % 2}"]) for i in range(4)]))
    view = TopView()
    press(view, shown, "/", *"MODEL-1", " ", *"gpu-33", "backspace")
    assert names(text(shown, view)) == ["gpu-3"]
    press(view, shown, "enter", "/", "clear", "escape")
    assert view.filter == "MODEL-1 gpu-3"
    press(view, shown, "escape")
    assert len(names(text(shown, view))) == 4
    press(view, shown, "f", *"nothing")
    assert "no row has these words" in text(shown, view)


def test_a_selected_request_stays_selected_while_others_end() -> None:
    seen = Seen()
    seen.take(Glance(live(running=[request(7, ended=False)]), [request(number) for number in range(3)]))
    view, first = TopView(focus="requests"), seen.picture()
    assert first is not None
    press(view, first, "home")
    seen.take(Glance(live(), [request(number) for number in (7, *range(10, 90))]))
    second = seen.picture()
    assert second is not None
    lines = frame(second, view, FULL)
    [marked] = [line for line in lines if line and all(piece.style == "reverse" for piece in line)]
    assert view.table.selected[0] == "req-7"
    assert "400 ms" in "".join(piece.text for piece in marked)
    press(view, second, "enter")
    assert "request req-7\n" in text(second, view)
    assert "status         200" in text(second, view)
    assert "asking for the decision" in text(second, view)
    view.explanation = "no decision is kept"
    small = text(second, view, Size(40, 6)).splitlines()
    assert small[-1] == "↑↓ scroll, any other key closes"
    for _ in range(5):
        assert not view.press("page down")
    assert "no decision is kept" in text(second, view, Size(40, 6))
    press(view, second, "x")
    assert "req-7" not in text(second, view)


def test_the_selection_moves_by_rows_pages_and_to_the_ends() -> None:
    shown = picture(live(), *[request(number) for number in range(200)])
    view = TopView(focus="requests", is_alone=True)
    press(view, shown, "down", "down", "up")
    assert view.table.selected[0] == "req-199"
    press(view, shown, "page down")
    assert view.table.selected[0] == f"req-{199 - view.table.page}"
    press(view, shown, "end")
    assert view.table.selected[0] == "req-0"
    press(view, shown, "escape", "escape")
    assert (view.table.selected, view.table.top) == (None, 0)


def test_an_engine_that_starts_or_failed_has_its_reason() -> None:
    failure = {"message": "no GPU memory", "hint": None, "permanent": True, "retry_in_s": None}
    engines = [engine("gpu-7"), engine("gpu-8", state="failed", failure=failure, gpus=[])]
    shown = text(picture(live(instance("gpu-0", state="ejected", last_error="refused"), engines=engines)))
    assert "loading 50%, 0:41 of ~1:30" in shown
    assert "gpu-0: refused (and 1 more)" in shown
    assert "failed: no GPU memory" in shown
    assert names(shown) == ["gpu-0:", "gpu-0", "gpu-7", "gpu-8"]


def test_an_outage_and_its_end_are_said_and_no_request_comes_twice() -> None:
    seen = Seen()
    seen.take(Glance(live(), [request(1), request(2)]), 0.0)
    seen.take(Outage("the gateway stops"), 1.0)
    lost = seen.picture(1.0)
    assert lost is not None
    assert "lost http://127.0.0.1:8000" in text(lost)
    assert "the gateway stops; trying again" in text(lost)
    seen.take(Glance(live(pid=99), [request(2), request(3)], is_first=True), 2.0)
    back = seen.picture(2.0)
    assert back is not None
    assert "connected to a new gateway, pid 99" in text(back)
    assert [row["request_id"] for row in back.tables["requests"]] == ["req-3", "req-2", "req-1"]
    assert "requests/s" not in text(back)  # no rate is known yet
    later = seen.picture(60.0)
    assert later is not None
    assert "connected" not in text(later)


def test_a_pipe_gets_all_columns_and_the_newest_requests() -> None:
    running = [request(number, ended=False) for number in range(100, 140)]
    ended = [request(number, why="x" * 50) for number in range(60)]
    shown = text(picture(live(running=running), *ended), size=Size())
    rows = [line for line in shown.splitlines() if "chat" in line]
    assert len(rows) == 40 + 20
    assert "…" in shown  # the reason alone is cut
    assert max(map(len, rows)) > 120


def test_a_frame_of_many_requests_costs_little() -> None:
    instances = [instance(f"gpu-{number}") for number in range(16)]
    document = live(*instances, running=[request(number, ended=False) for number in range(2000, 2064)])
    seen, view = Seen(), TopView()
    seen.take(Glance(document, [request(number) for number in range(1000)]))
    with cpu_time() as spent:
        for number in range(10):
            seen.take(Glance(document, [request(3000 + number)]))
            shown = seen.picture()
            assert shown is not None
            frame(shown, view, FULL)
    assert spent.seconds < 0.2  # measured: 0.03 s
