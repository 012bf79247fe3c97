"""The rules, the dashboard and the runbook: that they are right, and that they are about metrics that exist."""

import json
import re
import subprocess
from pathlib import Path

import metric_table
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules.yaml"
TESTS = [ROOT / "deploy/prometheus/rules_test.yaml", ROOT / "deploy/prometheus/rules_week_test.yaml"]
DASHBOARD = ROOT / "deploy/grafana/ftps2sftp.json"
RUNBOOK = ROOT / "deploy/runbook.md"

# Labels that do not come from the gateway but from whoever scrapes it, and the bound of a bucket.
OF_THE_TARGET = {"namespace", "job", "instance", "pod", "le"}
# Variables of the dashboard stand for a value that exists.
VARIABLE = re.compile(r"^\$\w+$")


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def alerts():
    return sorted({rule["alert"] for rule in rules() if "alert" in rule})


def dashboard():
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def dashboard_queries():
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return found + [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]


def promtool(*arguments):
    return subprocess.run(["promtool", *arguments], check=False, capture_output=True, text=True)


def complaints(query, known, recorded):
    """What a query names that does not exist."""
    series = {name: metric for metric in known.values() for name in metric.series()}
    named = set(re.findall(r"\b(?:ftps2sftp_|process_|namespace_job:)[\w:]+", re.sub(r'"[^"]*"', '""', query)))
    for name in sorted(named - series.keys() - metric_table.PROCESS - recorded):
        yield f"no metric {name}"
    for name, matchers in re.findall(r"([\w:]+)\{([^}]*)\}", query):
        for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
            if label in OF_THE_TARGET or name not in series:
                continue
            labels = series[name].labels
            if label not in labels:
                yield f"{name} has no label {label}"
            elif labels[label] is not None and not VARIABLE.match(value):
                for one in value.split("|") if "~" in operator else [value]:
                    if one not in labels[label]:
                        yield f"{name} has no {label} {one}"
    may_group = OF_THE_TARGET.union(*(series[name].labels for name in named if name in series))
    for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", query):
        for label in filter(None, (one.strip() for one in labels.split(","))):
            if label not in may_group and named <= series.keys():
                yield f"nothing here has a label {label}"


def test_queries_name_only_what_exists():
    known = metric_table.metrics()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    queries = [rule["expr"] for rule in rules()] + dashboard_queries()
    assert sorted({complaint for query in queries for complaint in complaints(query, known, recorded)}) == []


def test_queries_that_name_what_does_not_exist_are_found():
    known = metric_table.metrics()
    wrong = {
        'rate(ftps2sftp_loggins_total[5m])': "no metric ftps2sftp_loggins_total",
        'ftps2sftp_logins_total{outcome="success"}': "ftps2sftp_logins_total has no label outcome",
        'ftps2sftp_logins_total{result=~"success|fine"}': "ftps2sftp_logins_total has no result fine",
        'sum by (user) (ftps2sftp_logins_total)': "nothing here has a label user",
        'ftps2sftp_transfer_duration_seconds': "no metric ftps2sftp_transfer_duration_seconds",
    }
    for query, complaint in wrong.items():
        assert list(complaints(query, known, set())) == [complaint]


def test_promtool_accepts_the_rules():
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should(file):
    tested = promtool("test", "rules", str(file))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_scenario_in_which_it_fires():
    text = "".join(file.read_text(encoding="utf-8") for file in TESTS)
    missing = [name for name in alerts() if f'alertname="{name}"' not in text and f"alertname: {name}" not in text]
    assert missing == []


def test_every_alert_says_what_a_person_needs():
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket", "info"), rule["alert"]
            assert {"summary", "description", "runbook_url"} == set(rule["annotations"]), rule["alert"]


def test_the_runbook_has_a_heading_for_each_alert_and_no_other():
    headings = re.findall(r"^## (\S+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == alerts()


def test_links_into_the_runbook_lead_somewhere():
    text = RUNBOOK.read_text(encoding="utf-8")
    anchors = {heading.lower() for heading in re.findall(r"^## (\S+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors
    for rule in rules():
        if "alert" in rule:
            file, anchor = rule["annotations"]["runbook_url"].split("#")
            assert (ROOT / file) == RUNBOOK
            assert anchor == rule["alert"].lower()


def test_promtool_parses_every_query_of_the_dashboard(tmp_path):
    variables = {"$__rate_interval": "5m"}
    made = []
    for number, query in enumerate(dashboard_queries()):
        for variable, value in variables.items():
            query = query.replace(variable, value)
        made.append({"record": f"dashboard:query_{number}", "expr": query})
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}), encoding="utf-8")
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dashboard_is_what_its_generator_writes():
    made = subprocess.run([ROOT / "deploy/grafana/generate", "--print"], check=True, capture_output=True, text=True)
    assert made.stdout == DASHBOARD.read_text(encoding="utf-8"), "run deploy/grafana/generate"


def test_panels_are_complete_and_do_not_overlap():
    everything = dashboard()["panels"]
    numbers = [panel["id"] for panel in everything]
    assert len(numbers) == len(set(numbers))
    taken = set()
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        fields = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not fields & taken, panel["title"]
        taken |= fields
    for panel in panels():
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]


def test_every_variable_of_the_dashboard_is_declared_and_used():
    declared = {variable["name"] for variable in dashboard()["templating"]["list"]}
    text = DASHBOARD.read_text(encoding="utf-8")
    used = set(re.findall(r"\$\{?(\w+)", "".join(dashboard_queries()) + text)) - {"__rate_interval", "__all"}
    assert used == declared


def test_every_metric_is_shown_or_watched():
    text = RULES.read_text(encoding="utf-8") + DASHBOARD.read_text(encoding="utf-8")
    unused = [name for name in metric_table.metrics() if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", text)]
    assert unused == []


def test_the_examples_are_accepted():
    checked = promtool("check", "config", str(ROOT / "deploy/prometheus/prometheus.example.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    amtool = ["amtool", "check-config", ROOT / "deploy/prometheus/alertmanager.example.yaml"]
    checked = subprocess.run(amtool, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_page_stands_for_the_ticket_about_the_same_and_no_other():
    file = ROOT / "deploy/prometheus/alertmanager.example.yaml"
    [inhibited] = yaml.safe_load(file.read_text(encoding="utf-8"))["inhibit_rules"]
    for name in alerts():
        found = [rule for rule in rules() if rule.get("alert") == name]
        if {rule["labels"]["severity"] for rule in found} >= {"page", "ticket"}:
            for labels in re.findall(r"\bby \(([^)]*)\)", "".join(rule["expr"] for rule in found)):
                assert set(labels.split(", ")) <= set(inhibited["equal"]), name


@pytest.mark.parametrize(("severity", "receiver"), [("page", "pages"), ("ticket", "tickets"), ("info", "digest")])
def test_each_severity_goes_its_own_way(severity, receiver):
    file = ROOT / "deploy/prometheus/alertmanager.example.yaml"
    routed = subprocess.run(
        ["amtool", "config", "routes", "test", f"--config.file={file}", f"severity={severity}"],
        check=True, capture_output=True, text=True,
    )
    assert routed.stdout.strip() == receiver
