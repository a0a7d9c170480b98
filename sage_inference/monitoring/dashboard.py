"""The dashboard for Grafana (10 or newer) as a JSON model.

Format: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from sage_inference.monitoring.panels import ROWS, Panel

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SCHEMA = 39  # of Grafana 10.4; newer ones read it
_WIDTH = 24
_HEIGHTS = {"timeseries": 8, "state-timeline": 6, "stat": 4}


def dashboard() -> dict[str, Any]:
    """The dashboard. It asks for a data source, and offers to choose instances and models."""
    return {
        "uid": "sage-inference",
        "title": "sage-inference",
        "description": "One gateway: its requests, its engines and their speed.",
        "tags": ["llm", "sage-inference"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "graphTooltip": 1,  # the same moment in all panels
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                },
                _variable("instance", "Engine", "label_values(sage_instance_ready, instance)"),
                _variable("model", "Model", "label_values(sage_requests_total, model)"),
            ]
        },
        "panels": list(_panels()),
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # when the range of time changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # also requests that no engine was asked for
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    ids, y = count(1), 0
    for title, panels in ROWS:
        yield {
            "id": next(ids),
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
            "panels": [],
        }
        y += 1
        for line in _lines(panels):
            x, height = 0, max(_HEIGHTS[panel.kind] for panel in line)
            for panel in line:
                place = {"x": x, "y": y, "w": panel.width, "h": height}
                yield {"id": next(ids), "gridPos": place, **_panel(panel)}
                x += panel.width
            y += height


def _lines(panels: Iterable[Panel]) -> Iterator[list[Panel]]:
    """The panels that stand beside each other."""
    line: list[Panel] = []
    for panel in panels:
        if sum(each.width for each in line) + panel.width > _WIDTH:
            yield line
            line = []
        line.append(panel)
    yield line


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": _drawing(panel)},
            "overrides": [],
        },
        "options": _options(panel),
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
            }
            for at, query in enumerate(panel.queries)
        ],
    }


def _drawing(panel: Panel) -> dict[str, Any]:
    if panel.kind != "timeseries":
        return {}
    stacking = {"mode": "normal" if panel.is_stacked else "none", "group": "A"}
    return {"fillOpacity": 30 if panel.is_stacked else 0, "showPoints": "never", "stacking": stacking}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
