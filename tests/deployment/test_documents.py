"""What people read about the charts, and how the files are written."""

import json
import re
import subprocess
from pathlib import Path

import helmtool
import pytest
import values_table
import yaml

ROOT = Path(__file__).parents[2]
CHARTS = [ROOT / "helm/ftps2sftp", ROOT / "helm/ftps2sftp-lib"]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_the_table_of_values_is_that_of_the_values(chart):
    readme = (chart / "README.md").read_text(encoding="utf-8")
    made = values_table.table((chart / "values.yaml").read_text(encoding="utf-8"))
    assert values_table.with_table(readme, made) == readme, f"run tests/deployment/values_table.py {chart}"


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_every_value_is_described(chart):
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    known = {tuple(path) for path, _ in values_table.described(text)}
    # `updateStrategy` and the like are described as a whole, above the key.
    assert list(values_table.undescribed(yaml.safe_load(text), known)) == []


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_links_lead_somewhere(chart):
    for target in re.findall(r"\]\(([^)#]+)\)", (chart / "README.md").read_text(encoding="utf-8")):
        assert (chart / target).exists(), target


def test_the_schema_is_a_schema_that_the_defaults_fit():
    schema = ROOT / "helm/ftps2sftp/values.schema.json"
    for arguments in (["--check-metaschema", schema], ["--schemafile", schema, ROOT / "helm/ftps2sftp/values.yaml"]):
        checked = subprocess.run(["check-jsonschema", *arguments], check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_schema_knows_every_value_and_no_other():
    schema = json.loads((ROOT / "helm/ftps2sftp/values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((ROOT / "helm/ftps2sftp/values.yaml").read_text(encoding="utf-8"))

    def compare(known, given, path):
        if known.get("properties") is None:
            return
        # What only ever is refused with a reason, and what Helm itself gives to every chart.
        extra = {"service.sessionAffinity", "global", "tls.certManager.issuerRef.name", "tls.certManager.issuerRef.kind",
                 "tls.certManager.issuerRef.group"}
        only = {f"{path}{key}" for key in known["properties"].keys() ^ given.keys()} - extra
        assert only == set()
        for key, value in given.items():
            if isinstance(value, dict):
                compare(known["properties"][key], value, f"{path}{key}.")

    compare(schema, values, "")


def test_yaml_is_written_well():
    files = [
        file
        for folder in ("deploy", "helm", "tests/deployment/wrong-values")
        for file in sorted((ROOT / folder).rglob("*.yaml"))
        if "templates" not in file.parts and "charts" not in file.parts
    ]
    assert len(files) > 30
    rules = "{extends: default, rules: {line-length: {max: 240}, document-start: disable, comments: {min-spaces-from-content: 1}, comments-indentation: disable, braces: {max-spaces-inside: 0}}}"
    checked = subprocess.run(["yamllint", "--strict", "-d", rules, *files], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def words_of(text, command):
    """The words of a command in a fenced block, its continued lines included."""
    [line] = [line for block in text.split("```sh\n")[1:] for line in block.split("```")[0].replace("\\\n", " ").splitlines()
              if line.startswith(command)]
    return line.split()


def test_the_container_of_the_readme_may_drain_before_it_is_killed():
    words = words_of((ROOT / "README.md").read_text(encoding="utf-8"), "podman run")
    shutdown = yaml.safe_load((ROOT / "deploy/config.example.yaml").read_text(encoding="utf-8"))["shutdown"]
    assert shutdown == {"delay": "0s", "drain": "5m"}
    assert int(words[words.index("--stop-timeout") + 1]) > 300
    # What it is built as is what is run, and pushed.
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert words_of(text, "deploy/image")[1] == words[-1] == words_of(text, "buildah push")[2]


def test_the_chart_of_the_readmes_is_installed_from_a_registry():
    for file in ("README.md", "helm/ftps2sftp/README.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert words_of(text, "helm install")[:5] == ["helm", "install", "gateway", "helm/ftps2sftp", "--values"]
        assert re.search(r"image(\.|: \{)repository(=|: )registry\.example\.com/ftps2sftp", text), file


def test_the_values_of_the_charts_readme_are_values(tmp_path):
    text = (ROOT / "helm/ftps2sftp/README.md").read_text(encoding="utf-8")
    values = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert [made for made in helmtool.render(CHARTS[0], values) if made["kind"] == "StatefulSet"]
