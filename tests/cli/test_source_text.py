"""A source of engines in ``status``, and ``start --cluster``."""

from __future__ import annotations

from typing import Any

import pytest

from sage_inference.cli import sourcetext
from sage_inference.cli.statusrows import columns_of, rows
from sage_inference.config import flags
from sage_inference.config.errors import ConfigError
from sage_inference.config.settings import Flags, Settings, SourceSettings
from tests.cli.live_state import instance


def source(**more: Any) -> dict[str, Any]:
    return {
        "kind": "file", "address": "/e.yaml", "state": "ok", "age_s": 1.2, "instances": 4, "nodes": None,
        "skipped": [], "last_error": None, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "source file /e.yaml  ok, looked 1 s ago, 4 engines"),
        ({"instances": 1, "nodes": 1}, "source file /e.yaml  ok, looked 1 s ago, 1 engine on 1 node"),
        ({"nodes": 3}, "source file /e.yaml  ok, looked 1 s ago, 4 engines on 3 nodes"),
        (
            {"state": "stale", "age_s": 120.0, "last_error": "is being written"},
            "source file /e.yaml  stale: is being written; its list of 2 min ago holds, 4 engines",
        ),
        (
            {"state": "stale", "age_s": None},
            "source file /e.yaml  stale: no answer yet; its list of an earlier run holds, 4 engines",
        ),
        (
            {"state": "failed", "age_s": None, "last_error": "cannot be read: No such file or directory"},
            "source file /e.yaml  failed: cannot be read: No such file or directory; it has given no list",
        ),
    ],
)
def test_the_line_of_a_source(more: dict[str, Any], line: str) -> None:
    assert sourcetext.line(source(**more)) == line


def test_entries_that_are_left_out_are_warnings() -> None:
    assert sourcetext.remarks(source(skipped=["a: no"])) == ["source file /e.yaml: a: no"]


def test_nodes_are_a_column_only_where_there_are_some() -> None:
    headers = [column.header for column in columns_of(rows([instance("a")]))]
    assert "NODE" not in headers
    column = columns_of(rows([instance("a", node="gpu1"), instance("b")]))[-1]
    assert (column.header, column.cells) == ("NODE", ["gpu1", "-"])


def test_a_cluster_of_the_command_line_is_one_more_source() -> None:
    before = Settings(sources=(SourceSettings(file="/e.yaml"),))
    url = "http://head:8265"
    after = flags.apply(before, Flags(cluster=url))
    assert after.sources == (*before.sources, SourceSettings(ray=url))
    configured = Settings(sources=(SourceSettings(ray=url, interval_s=9.0),))
    assert flags.apply(configured, Flags(cluster=url)) == configured
    with pytest.raises(ConfigError, match=r"--cluster must be http://host:port"):
        flags.apply(before, Flags(cluster="head:8265"))
