"""One alert with everything real: gateway, sshd, curl, Prometheus and Alertmanager."""

import contextlib
import json
import re
import subprocess
from pathlib import Path

import gateway
import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture
def running(tmp_path):
    """What a test has begun; all of it is ended, last first."""
    with contextlib.ExitStack() as begun:

        def begin(name, *command):
            with (tmp_path / f"{name}.log").open("w") as log:
                process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, cwd=tmp_path)
            begun.callback(gateway.stop, process)
            return process

        yield begin


def hasty_rules(target):
    """The rules as they are, but that two minutes are two seconds."""
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text(encoding="utf-8"))
    for group in rules["groups"]:
        group["interval"] = "1s"
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") == "Ftps2sftpBackendDown"]
        for rule in group["rules"]:
            assert rule["for"] == "2m"
            rule["for"] = "2s"
    rules["groups"] = [group for group in rules["groups"] if group["rules"]]
    target.write_text(yaml.safe_dump(rules), encoding="utf-8")


def test_a_backend_that_is_gone_pages_somebody(tmp_path, running):
    tls = tmp_path / "tls"
    gateway.certificate(tls)
    (tmp_path / "ssh").mkdir()
    sshd = gateway.Sshd(tmp_path / "ssh")
    sshd.start()
    try:
        explicit, admin, prometheus, alertmanager = gateway.free_ports(4)
        passive = gateway.free_ports(1)[0]
        config = tmp_path / "config.yaml"
        key = tmp_path / "ssh/login_key"
        config.write_text(gateway.configuration(sshd, tls, key, (explicit, admin), (passive, passive)), encoding="utf-8")
        running("gateway", gateway.binary(), "run", "--config", config)
        gateway.wait_for(lambda: gateway.get(f"http://127.0.0.1:{admin}/startz")[0] == 200, "the gateway")
        listing = gateway.curl(tls, f"ftp://localhost:{explicit}/")
        assert listing.returncode == 0, listing.stderr

        # What is scraped is well formed.
        exposition = gateway.get(f"http://127.0.0.1:{admin}/metrics")[1]
        checked = subprocess.run(["promtool", "check", "metrics"], input=exposition, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr

        hasty_rules(tmp_path / "rules.yaml")
        (tmp_path / "prometheus.yaml").write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": ["rules.yaml"],
                    "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
                    "scrape_configs": [
                        {"job_name": "ftps2sftp", "static_configs": [{"targets": [f"127.0.0.1:{admin}"]}]}
                    ],
                }
            ),
            encoding="utf-8",
        )
        (tmp_path / "alertmanager.yaml").write_text(
            "{route: {receiver: nobody, group_wait: 0s}, receivers: [{name: nobody}]}", encoding="utf-8"
        )
        gateway.run("amtool", "check-config", tmp_path / "alertmanager.yaml")
        running("alertmanager", "prometheus-alertmanager", "--config.file=alertmanager.yaml",
                f"--storage.path={tmp_path}/alerts", "--cluster.listen-address=",
                f"--web.listen-address=127.0.0.1:{alertmanager}")
        running("prometheus", "prometheus", "--config.file=prometheus.yaml", f"--storage.tsdb.path={tmp_path}/series",
                f"--web.listen-address=127.0.0.1:{prometheus}")

        def up():
            query = f"http://127.0.0.1:{prometheus}/api/v1/query?query=ftps2sftp_backend_up"
            found = re.findall(r'"value":\[[^,]*,"(\d)"\]', gateway.get(query)[1])
            return found[0] if found else None

        def firing():
            status, body = gateway.get(f"http://127.0.0.1:{alertmanager}/api/v2/alerts?active=true")
            return json.loads(body) if status == 200 else []

        gateway.wait_for(lambda: up() == "1", "a scrape", 60)
        assert firing() == []

        sshd.stop()
        refused = gateway.curl(tls, f"ftp://localhost:{explicit}/")
        assert refused.returncode != 0
        [alert] = gateway.wait_for(firing, "the alert", 90)
        assert alert["labels"] == {
            "alertname": "Ftps2sftpBackendDown", "backend": "warehouse", "job": "ftps2sftp", "severity": "page",
        }
        file, anchor = alert["annotations"]["runbook_url"].split("#")
        assert f"## {alert['labels']['alertname']}\n" in (ROOT / file).read_text(encoding="utf-8")
        assert anchor == alert["labels"]["alertname"].lower()

        # It ends with the first login that succeeds. The gateway may rest an address that failed for some seconds.
        sshd.start()
        gateway.wait_for(lambda: gateway.curl(tls, f"ftp://localhost:{explicit}/").returncode == 0, "a login", 60)
        gateway.wait_for(lambda: up() == "1", "a scrape", 60)
    finally:
        sshd.stop()
