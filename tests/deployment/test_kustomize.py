"""The kustomize component, as its example uses it, built by the real kubectl."""

import re
import subprocess
from pathlib import Path

import gateway
import helmtool
import manifests
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"


def build(folder):
    made = subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(made.stdout))


@pytest.fixture(scope="module")
def example():
    return build(KUBERNETES / "example")


def sidecar(objects):
    [deployment] = [made for made in objects if made["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["initContainers"]
    return container


@pytest.mark.parametrize("kubernetes", ["v1.29.0", "v1.37.0"])
def test_the_example_fits_its_schemas(example, kubernetes):
    for made in example:
        manifests.against_schema(made, kubernetes)
    assert list(manifests.problems(example)) == []


def test_the_gateway_accepts_the_configuration_of_the_example(example, tmp_path):
    [made] = [one for one in example if one["kind"] == "ConfigMap"]
    gateway.certificate(tmp_path / "tls")
    files = {"/etc/ftps2sftp/known_hosts": made["data"]["known_hosts"]}
    said = gateway.check_configuration(made["data"]["config.yaml"], files, tmp_path, {})
    assert re.search(r"^configuration +ok .* is valid$", said, re.MULTILINE), said


def test_sessions_of_the_example_fit_into_its_memory_limit(example):
    [made] = [one for one in example if one["kind"] == "ConfigMap"]
    limits = yaml.safe_load(made["data"]["config.yaml"])["limits"]
    assert sidecar(example)["resources"]["limits"]["memory"] == "256Mi"
    assert manifests.mebibytes_needed(limits) <= 256


def test_component_and_library_chart_add_the_same_sidecar(example):
    application = ROOT / "helm/examples/sidecar-app"
    helmtool.update_dependencies(application)
    own_secret = {"name": "ftps2sftp-secret-0", "mountPath": "/secrets/uploader-sftp", "readOnly": True}
    library = sidecar(helmtool.render(application))
    # The example of the chart has a Secret of its own; the defaults of resources are each way's own.
    library["volumeMounts"].remove(own_secret)
    component = sidecar(example)
    for container in (library, component):
        container.pop("resources")
    assert component == library


def test_the_component_says_what_the_pod_needs_besides(example):
    # Secrets are readable for the pod's group alone; whose group that is the application says, and the example does.
    [deployment] = [made for made in example if made["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert [volume["secret"]["defaultMode"] for volume in pod["volumes"] if "secret" in volume] == [0o440]
    assert pod["securityContext"]["fsGroup"]
    assert "fsGroup" not in (KUBERNETES / "sidecar/sidecar.yaml").read_text(encoding="utf-8")
    assert "`fsGroup`" in (KUBERNETES / "sidecar/kustomization.yaml").read_text(encoding="utf-8")


def test_jobs_and_stateful_sets_get_it_too(tmp_path):
    for kind, version in (("Job", "batch/v1"), ("StatefulSet", "apps/v1")):
        folder = tmp_path / kind
        folder.mkdir()
        workload = {
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": "uploader", "labels": {"ftps2sftp": "sidecar"}},
            "spec": {"template": {"spec": {"containers": [{"name": "uploader", "image": "example.com/uploader:1"}]}}},
        }
        (folder / "workload.yaml").write_text(yaml.safe_dump(workload), encoding="utf-8")
        component = Path("../" * len(folder.resolve().parts[1:])) / str(KUBERNETES / "sidecar").lstrip("/")
        (folder / "kustomization.yaml").write_text(
            yaml.safe_dump({"resources": ["workload.yaml"], "components": [str(component)]}), encoding="utf-8"
        )
        [made] = build(folder)
        assert made["spec"]["template"]["spec"]["initContainers"][0]["restartPolicy"] == "Always"
