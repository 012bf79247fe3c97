"""The one place that knows the Helm SDK: renders, lints and packages charts without a cluster."""

import functools
import json
from pathlib import Path

import helm_python
import yaml
from helm_python import _native

# The versions of Kubernetes that are tried: the oldest that the chart names, the first with native sidecars, and the newest
# that there are schemas for.
KUBERNETES = ["v1.27.0", "v1.29.0", "v1.37.0"]

RefusedValues = (helm_python.HelmValuesError, helm_python.HelmRenderError)


@functools.cache
def load(chart):
    """A chart as it was when it was first asked for."""
    return helm_python.Chart.load(chart)


def render_files(chart, values=None, kubernetes="v1.37.0", name="gateway", namespace="files"):
    """What each template of a chart renders to, as text. The version of Kubernetes has no public way in."""
    options = {"name": name, "namespace": namespace, "kube_version": kubernetes}
    rendered = _native.call_string("helm_render", load(chart)._raw(), json.dumps(values or {}), json.dumps(options))
    return json.loads(rendered)


def render(chart, values=None, **how):
    """The objects of a chart."""
    files = render_files(chart, values, **how)
    texts = [text for path, text in sorted(files.items()) if not path.endswith("NOTES.txt")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def notes(chart, values=None):
    """What an installation tells the person who does it."""
    return next(text for path, text in render_files(chart, values).items() if path.endswith("NOTES.txt"))


def lint(chart, values=None):
    """The findings that are worse than a remark."""
    report = helm_python.lint(chart, values, strict=True)
    return [finding for finding in report["messages"] if finding["severity"] >= 2] + report["errors"]


def package(chart, destination):
    """The path of the packaged chart."""
    return Path(load(chart).save(destination))


def update_dependencies(chart):
    """Puts the charts that a chart needs below its `charts/`."""
    helm_python.dependency_update(chart)
