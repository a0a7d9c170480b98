"""The real command before a file that names simulated engines: what people see, and a start without the file."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.command import sage
from tests.support.gateway import Gateway, free_port, running_gateway
from tests.support.prometheus import samples, total
from tests.support.simulators import simulated_engine


@contextmanager
def with_lists_of(former: Path, config: dict[str, Any]) -> Iterator[Gateway]:
    """A gateway whose state folder has the lists of a former one."""
    home = Path(tempfile.mkdtemp(prefix="sage-"))
    (home / "config.yaml").write_text(json.dumps(config))
    (home / "state").mkdir(mode=0o700)
    shutil.copytree(former, home / "state" / "sources")
    gateway = Gateway(home, free_port(), (), {})
    try:
        gateway.wait_notified("READY=1")
        yield gateway
    finally:
        gateway.close()
        shutil.rmtree(home, ignore_errors=True)


def test_engines_of_a_file_are_served_shown_and_remembered(tmp_path: Path) -> None:
    listed, former = tmp_path / "engines.yaml", tmp_path / "former"
    config = {"sources": [{"file": str(listed), "interval_s": 0.2}], "health": {"interval_s": 0.3}}
    with simulated_engine("vllm") as llm, simulated_engine("tei") as tei:
        chat = {"model": llm.model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
        vectors = {"model": tei.model, "input": ["a", "b"]}
        listed.write_text(f"- {{url: '{llm.url}', name: llm}}\n- {{url: '{tei.url}', name: tei}}\n")
        with running_gateway(config=config) as running, running.client() as caller:
            assert caller.post("/v1/embeddings", json=vectors).status_code == 200
            shown = sage(running.home, "status").stdout
            assert f"source file {listed}  ok, looked " in shown
            assert " ago, 2 engines\n" in shown
            page = samples(caller.get("/metrics").text)
            assert total(page, "sage_source_instances", source=f"file {listed}") == 2
            assert total(page, "sage_source_failures_total") == 0
            draft = tmp_path / "draft"
            draft.write_text(f"- {{url: '{llm.url}', name: llm}}\n")
            draft.replace(listed)
            while len(running.status()["instances"]) > 1:
                time.sleep(0.05)
            reply = caller.post("/v1/embeddings", json=vectors)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
            shutil.copytree(running.paths.sources_folder, former)
        listed.unlink()
        with with_lists_of(former, config) as running, running.client() as caller:
            assert caller.post("/v1/chat/completions", json=chat).status_code == 200
            found = running.status()
            [source] = found["sources"]
            assert (source["state"], source["instances"]) == ("stale", 1)
            assert [each["source"] for each in found["instances"]] == [f"file {listed}"]
            shown = sage(running.home, "status").stdout
            assert "its list of an earlier run holds, 1 engine\n" in shown
