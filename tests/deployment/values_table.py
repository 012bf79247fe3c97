#!/usr/bin/env python3
"""Makes the table of a chart's values out of the comments in its values.yaml, and puts it into its README.

    tests/deployment/values_table.py CHART...
"""

import json
import re
import sys
from pathlib import Path

import yaml

BEGIN = "<!-- The table is made by tests/deployment/values_table.py out of values.yaml. -->"
END = "<!-- End of the table. -->"


def described(text):
    """Path and description of each value that has a comment beginning with `# --`, in order."""
    path = []
    comment = []
    for line in text.splitlines():
        if begun := re.match(r" *# -- (.*)", line):
            comment = [begun.group(1)]
        elif comment and (more := re.match(r" *# (.*)", line)):
            comment.append(more.group(1))
        elif key := re.match(r"( *)(\w+):", line):
            path = path[: len(key.group(1)) // 2] + [key.group(2)]
            if comment:
                yield path, " ".join(comment)
            comment = []
        else:
            comment = []


def undescribed(values, known, path=()):
    """Values that no comment is about, neither theirs nor one of what they belong to."""
    for key, value in values.items():
        here = (*path, key)
        if here in known:
            continue
        if isinstance(value, dict) and value:
            yield from undescribed(value, known, here)
        else:
            yield ".".join(here)


def table(text):
    """The table, as Markdown."""
    values = yaml.safe_load(text)
    lines = ["| Value | Default | |", "|---|---|---|"]
    for path, description in described(text):
        default = values
        for key in path:
            default = default[key]
        shown = json.dumps(default, ensure_ascii=False)
        lines.append(f"| `{'.'.join(path)}` | `{shown}` | {description.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def with_table(readme, made):
    """A README whose table is this one."""
    begin, end = readme.index(BEGIN) + len(BEGIN), readme.index(END)
    return f"{readme[:begin]}\n\n{made}\n\n{readme[end:]}"


def main():
    for chart in map(Path, sys.argv[1:]):
        readme = chart / "README.md"
        made = table((chart / "values.yaml").read_text(encoding="utf-8"))
        readme.write_text(with_table(readme.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
