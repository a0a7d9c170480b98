"""The log of an engine: lines, secrets, rotation, and failures that the engine must not notice."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_inference.keeper import files
from sage_inference.keeper.client import KeeperLink, StartLog, adopt, follow
from sage_inference.keeper.masking import Masker, secret_values
from sage_inference.keeper.output import LONGEST, Output
from sage_inference.log_files.writer import LogWriter
from tests.keeper.conftest import PYTHON, Engines, wait_until


def written(folder: Path, pieces: list[bytes], secrets: list[str] | None = None) -> list[bytes]:
    """The lines of the log after these reads."""
    path = folder / "log"
    path.unlink(missing_ok=True)
    reading, writing = os.pipe()
    output = Output(reading, LogWriter(path, 1 << 30, 1), Masker(secrets or []))
    for piece in pieces:
        for at in range(0, len(piece), 60_000):
            os.write(writing, piece[at : at + 60_000])
            assert output.read()
    os.close(writing)
    assert not output.read()
    output.close()
    return path.read_bytes().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\r\nc\rd", [b"a", b"b", b"c", b"d"]),
        (b"\rLoading: 10%\rLoading: 20%\r\nready\n", [b"Loading: 10%", b"Loading: 20%", b"ready"]),
        (b"\n\n\r\r\n", []),
        (b"\xff\xfe\0 binary\n", [b"\xff\xfe\0 binary"]),
        (b"x" * LONGEST + b"\n", [b"x" * LONGEST]),
        (b"x" * (LONGEST + 7) + b"\nnext\n", [b"x" * LONGEST + b" ... [7 bytes left out]", b"next"]),
        (
            b"x" * 1_000_000 + b"\r" + b"y" * 1_000_000,
            [
                b"x" * LONGEST + b" ... [983616 bytes left out]",
                b"y" * LONGEST + b" ... [983616 bytes left out]",
            ],
        ),
    ],
)
def test_lines_end_at_both_line_ends_and_have_a_length(
    tmp_path: Path, data: bytes, lines: list[bytes]
) -> None:
    assert written(tmp_path, [data]) == lines


@given(
    data=st.lists(
        st.sampled_from([b"a", b"opensesame", b"\n", b"\r", b"\r\n", b" ", b"x" * 9000]), max_size=30
    ),
    cuts=st.lists(st.integers(0, 60_000), max_size=8),
)
def test_lines_do_not_depend_on_how_the_output_was_read(
    tmp_path_factory: pytest.TempPathFactory, data: list[bytes], cuts: list[int]
) -> None:
    whole = b"".join(data)
    folder = tmp_path_factory.getbasetemp()
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    pieces = [whole[one:other] for one, other in itertools.pairwise(places)]
    lines = written(folder, pieces, ["opensesame"])
    assert lines == written(folder, [whole], ["opensesame"])
    assert not any(b"opensesame" in line for line in lines)
    # A long line is cut after it was masked, so no beginning of a secret stands at the cut.
    assert not any(line.partition(b" ... [")[0].endswith((b"opense", b"openses")) for line in lines)


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("token hf_AbCdEfGhIjKlMn", "token ***"),
        ("HF_TOKEN=hf_AbCdEfGhIjKlMn,x", "HF_TOKEN=***,x"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic dXNlcjpwdw=='}", "{'authorization': 'Basic ***'}"),
        ("authorization=secretvalue next", "authorization=*** next"),
        ("curl -H 'bearer 0123456789abcdef'", "curl -H 'bearer ***'"),
        ("https://user:pw1234@host/x", "https://***@host/x"),
        ("sk-proj0123456789abcdef", "***"),
        ("key opensesame!", "key ***!"),
        ("opensesameopensesame", "******"),
        ("the longer opensesame-and-more", "the longer ***"),
        # No secrets:
        ("hf_hub_download", "hf_hub_download"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("Authorization is off", "Authorization is off"),
        ("a bearer of news", "a bearer of news"),
        ("short abc", "short abc"),
    ],
)
def test_secrets_are_masked(line: str, masked: str) -> None:
    assert Masker(["opensesame", "opensesame-and-more", "abc", ""]).text(line) == masked


def test_values_of_variables_that_promise_a_secret_are_secrets() -> None:
    env = {
        "HF_TOKEN": "a",
        "VLLM_API_KEY": "b",
        "DB_PASSWORD": "c",
        "AWS_SECRET_ACCESS_KEY": "d",
        "KEYBOARD": "no",
        "HF_HOME": "no",
        "MONKEY": "no",
    }
    assert secret_values(env) == ["a", "b", "c", "d"]


def test_no_secret_of_the_environment_reaches_the_log_or_a_file(engines: Engines) -> None:
    link = engines.shell(
        'echo "starting with $HF_TOKEN"; printf "$HF_TO"; printf "KEN$HF_TOKEN"; echo "$OTHER" >&2; exec sleep 60',
        env={"HF_TOKEN": "opensesame-1", "OTHER": "opensesame-2"},
        secrets=["opensesame-2"],
        stop_command=["/bin/kill", "opensesame-2"],
        grace_s=0.1,
    )
    wait_until(lambda: (engines.directory / files.LOG).read_bytes().count(b"***") >= 3)
    link.kill()
    link.wait_exit(10)
    for file in engines.directory.iterdir():
        assert b"opensesame-1" not in file.read_bytes(), file
    assert b"opensesame-2" not in (engines.directory / files.LOG).read_bytes()
    line = Path(f"/proc/{os.getpid()}/cmdline").read_bytes()
    assert b"opensesame" not in line


def test_a_bar_is_shown_before_it_is_drawn_again(engines: Engines) -> None:
    engines.shell("printf '\\rLoading: 50%%'; exec sleep 60")
    wait_until(lambda: "Loading: 50%\n" in (engines.directory / files.LOG).read_text())


CHATTY = """
import os, sys, time
for number in range(4000):
    sys.stdout.write(f"line {number} {'x' * 60}" + ("\\r" if number % 7 == 0 else "\\n"))
    if number % 400 == 0:
        sys.stdout.flush()
        time.sleep(0.01)
sys.stdout.flush()
open(os.environ["OUT"] + "/ready", "w").close()
time.sleep(60)
"""


def numbers(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith("line ")]


def test_the_log_rotates_and_its_readers_miss_nothing(engines: Engines) -> None:
    # Enough parts for all lines, because a slow reader may open the log when it has been written.
    link = engines.launch(*PYTHON, CHATTY, log_bytes=50_000, log_backups=12)
    seen: list[str] = []
    reader: Iterator[str] = follow(engines.directory, lines=None, follow=True)

    def read() -> None:
        for line in reader:
            seen.append(line)
            if line.startswith("line 3999"):
                return

    thread = threading.Thread(target=read)
    thread.start()
    start = StartLog(engines.directory)
    polled: list[str] = []

    def poll() -> bool:
        polled.extend(start.read())
        return bool(polled) and polled[-1].startswith("line 3999")

    wait_until(poll)
    start.close()
    thread.join(20)
    assert not thread.is_alive()
    assert numbers(seen) == numbers(polled) == list(range(4000))
    parts = sorted(file.name for file in engines.directory.glob("output.log*"))
    assert 3 <= len(parts) <= 13
    assert all((engines.directory / part).stat().st_size <= 120_000 for part in parts)
    assert list(follow(engines.directory, lines=2, follow=False))[-1].startswith("line 3999")
    link.kill()


def test_a_start_is_read_from_its_first_line_on(engines: Engines) -> None:
    for number in range(2):
        link = engines.shell(f"echo first {number}; echo second; exec sleep 60")
        wait_until(lambda: "second" in list(follow(engines.directory, lines=1, follow=False)))
        log = StartLog(engines.directory)
        assert log.read() == [f"first {number}", "second"]
        assert log.read() == []
        log.close()
        link.kill()
        link.wait_exit(10)
    assert list(follow(engines.directory, lines=100, follow=False)).count("second") == 2


def test_the_last_words_of_an_engine_are_in_the_log(engines: Engines) -> None:
    link = engines.shell("trap 'echo bye; exit 0' TERM; touch $OUT/ready; while :; do sleep 0.02; done")
    wait_until((engines.root / "ready").exists)
    link.stop()
    link.wait_exit(10)
    assert list(follow(engines.directory, lines=1, follow=False)) == ["bye"]


FLOOD = """
import os, sys
for number in range(3000):
    print(number, "y" * 200)
open(os.environ["OUT"] + "/ready", "w").close()
import time; time.sleep(60)
"""


def test_a_log_that_may_not_grow_does_not_hold_up_the_engine(engines: Engines) -> None:
    """RLIMIT_FSIZE holds for the keeper and for the engine."""
    document = engines.spec(*PYTHON, FLOOD).as_document()
    program = (
        "import resource, sys, json\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from sage_inference.keeper.client import launch\n"
        "from sage_inference.keeper.spec import KeeperSpec\n"
        "launch(KeeperSpec(**json.loads(sys.stdin.read())), 'plain')\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(document).encode(), check=True, timeout=30
    )
    wait_until((engines.root / "ready").exists)
    link = adopt(engines.directory)
    assert link is not None
    with link:
        assert link.status().exit is None
        assert (engines.directory / files.LOG).stat().st_size <= 100_000
        link.stop()
        record = link.wait_exit(10)
    assert record is not None
    assert record.signal == signal.SIGTERM


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_full_disk_costs_lines_and_nothing_else(engines: Engines) -> None:
    engines.directory.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", engines.directory],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        link: KeeperLink = engines.python(FLOOD)
        assert link.status().exit is None
        assert (engines.directory / files.LOG).stat().st_size > 0
        link.stop()
        record = link.wait_exit(10)
        assert record is not None
        assert record.ordered
        link.close()
        os.truncate(engines.directory / files.LOG, 0)
        link = engines.shell("echo again; exec sleep 60")
        wait_until(lambda: "again" in (engines.directory / files.LOG).read_text())
        link.kill()
        link.wait_exit(10)
    finally:
        subprocess.run(["umount", "-l", engines.directory], check=False)
