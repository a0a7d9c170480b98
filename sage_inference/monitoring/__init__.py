"""What Prometheus and Grafana need to watch a gateway: a dashboard, alert rules, and a scrape configuration."""

FILES = ("dashboard", "alerts", "scrape")
