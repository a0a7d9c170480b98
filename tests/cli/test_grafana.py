"""``grafana`` prints files for Grafana and Prometheus, which fit the configuration."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from sage_inference.monitoring.dashboard import dashboard
from sage_inference.monitoring.scrape import alerts
from tests.support.command import sage


def test_it_prints_the_dashboard_and_the_rules(tmp_path: Path) -> None:
    printed = sage(tmp_path, "grafana")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert json.loads(printed.stdout) == dashboard()
    assert sage(tmp_path, "grafana", "alerts").stdout == alerts()


def test_the_scrape_entry_is_that_of_the_configuration(tmp_path: Path) -> None:
    [plain] = yaml.safe_load(sage(tmp_path, "grafana", "scrape").stdout)["scrape_configs"]
    assert plain["scheme"] == "http"
    (tmp_path / "other.yaml").write_text(
        json.dumps({"server": {"port": 8123}, "api_keys": [{"name": "a", "key": "a-long-secret"}]})
    )
    (tmp_path / "other.yaml").chmod(0o600)
    printed = sage(tmp_path, "grafana", "scrape", "--config", str(tmp_path / "other.yaml"))
    [entry] = yaml.safe_load(printed.stdout)["scrape_configs"]
    assert entry["static_configs"] == [{"targets": ["127.0.0.1:8123"]}]
    assert "authorization" in entry
    assert "a-long-secret" not in printed.stdout + printed.stderr


def test_wrong_usage_and_a_wrong_configuration_are_one_sentence(tmp_path: Path) -> None:
    unknown = sage(tmp_path, "grafana", "alert")
    assert unknown.returncode == 2
    assert "did you mean alerts?" in unknown.stderr
    missing = sage(tmp_path, "grafana", "scrape", "--config", str(tmp_path / "none.yaml"))
    (tmp_path / "config.yaml").write_text("server: [\x00")
    broken = sage(tmp_path, "grafana", "scrape")
    for failed in (missing, broken):
        assert failed.returncode != 0
        assert failed.stdout == ""
        assert failed.stderr.startswith("error: ")
        assert "Traceback" not in failed.stderr
