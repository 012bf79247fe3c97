"""Reads the tables of metrics and labels out of the gateway's sources: what rules and dashboards may name."""

import re
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src/telemetry/metrics"

# What the standard collector of every Prometheus client tells about its process.
PROCESS = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
    "process_threads",
}


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str
    kind: str
    # The values of a label, or None where they are names out of the configuration.
    labels: dict

    def series(self):
        """The names that it has in the exposition."""
        return {self.name + end for end in ("_bucket", "_sum", "_count")} if self.kind == "histogram" else {self.name}


def closed_sets():
    """The values of each enum of labels."""
    text = (SOURCES / "labels.rs").read_text(encoding="utf-8")
    sets = {}
    for body in re.findall(r"^label! \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        code = re.sub(r"//.*", "", body)
        name = re.search(r"(\w+) \{", code).group(1)
        sets[name] = set(re.findall(r'\w+ = "([^"]*)"', code))
    assert len(sets) == text.count("\nlabel! {"), "labels.rs is written in a way that is not understood here"
    return sets


def label(text, sets, constants):
    """Name and values of one label as it stands in the table."""
    if closed := re.fullmatch(r'closed\(\s*"(\w+)",\s*(\w+)::VALUES\s*,?\)', text):
        return closed.group(1), sets[closed.group(2)]
    if named := re.match(r'Label \{ name: "(\w+)"', text):
        return named.group(1), None
    return constants[text]


def metrics():
    """Every metric, by name."""
    text = (SOURCES / "table.rs").read_text(encoding="utf-8")
    sets = closed_sets()
    one_label = r'(?:closed\([^)]*\)|Label \{[^}]*\}|[A-Z_]+)'
    constants = {}
    for name, value in re.findall(rf"^const (\w+): Label = ({one_label});", text, re.MULTILINE):
        constants[name] = label(value, sets, constants)
    found = {}
    rows = text[text.index("\ntable! {") :]
    for kind, name, labels in re.findall(
        r'= (counter|gauge|histogram)\(\s*"(\w+)",\s*"[^"]*",\s*&\[(.*?)\](?:,|\))', rows, re.DOTALL
    ):
        found[name] = Metric(name, kind, dict(label(one, sets, constants) for one in re.findall(one_label, labels)))
    assert len(found) == len(re.findall(r"\b(?:counter|gauge|histogram)\(", rows)), (
        "table.rs is written in a way that is not understood here"
    )
    return found
