"""The part of Prometheus' configuration that reads a gateway's metrics."""

from __future__ import annotations

import json
from importlib.resources import files

from sage_inference.netloc import netloc, reachable


def scrape(host: str, port: int, *, is_https: bool, needs_key: bool) -> str:
    """``scrape_configs`` for a gateway that listens on ``host`` and ``port``. The key itself is never in it."""
    lines = [
        "# Add this to prometheus.yml.",
        "scrape_configs:",
        "  - job_name: sage-inference",
        "    scrape_interval: 15s",
        "    honor_labels: true  # the label instance names the engine",
        f"    scheme: {'https' if is_https else 'http'}",
    ]
    if is_https:
        lines += [
            "    tls_config:",
            "      ca_file: /etc/prometheus/sage-ca.pem  # leave out tls_config if its CA is public",
        ]
    if needs_key:
        lines += [
            "    authorization:",
            "      credentials_file: /etc/prometheus/sage-key  # holds one of api_keys",
        ]
    lines += ["    static_configs:", f"      - targets: [{json.dumps(netloc(reachable(host), port))}]"]
    return "\n".join(lines) + "\n"


def alerts() -> str:
    """The alert rules, as a YAML file of rules."""
    return (files("sage_inference.monitoring") / "alerts.yml").read_text(encoding="utf-8")
