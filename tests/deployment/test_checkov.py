"""What checkov, which knows the usual advice for Kubernetes, finds in the rendered charts."""

import json
import os
import subprocess
from pathlib import Path

import helmtool
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/ftps2sftp"
EXAMPLE = ROOT / "helm/examples/sidecar-app"
VALUES = {file.stem.removesuffix("-values"): yaml.safe_load(file.read_text()) for file in sorted(CHART.glob("ci/*.yaml"))}

# What it advises and is not followed, with the reason.
NOT_FOLLOWED = {
    "CKV_K8S_8": "Liveness probes: the pods of `helm test` end by themselves; the example's application is anybody's.",
    "CKV_K8S_9": "Readiness probes: the same.",
    "CKV_K8S_11": "Limits of processor time: a gateway that is throttled holds up transfers; the request is its share.",
    "CKV_K8S_15": "Pull policy Always: tags are versions, and a registry that is down must not keep a pod from starting.",
    "CKV_K8S_19": "The host's network: what `mode: hostNetwork` is for, which nobody has who does not ask for it.",
    "CKV_K8S_21": "The default namespace: a chart names none; whoever installs it does.",
    "CKV_K8S_43": "Digests: `image.digest` is for them; a chart cannot know that of an image which is built after it.",
    "CKV2_K8S_6": "Policies: none fits pods of `helm test`, which dial one port and end, nor those on a node's own network, "
    "nor the example's application.",
}


def failed(folder):
    """The rules that objects in a folder break, each with what breaks it, and how many it tried."""
    done = subprocess.run(
        [os.environ["CHECKOV"], "--directory", folder, "--framework", "kubernetes", "--skip-download", "--compact", "--quiet",
         "--output", "json"],
        check=False, capture_output=True, text=True,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0, done.stdout
    found = {}
    for one in report["results"]["failed_checks"]:
        found.setdefault(one["check_id"], set()).add(f"{one['check_name']}: {one['file_path']} {one['resource']}")
    return found, report["summary"]["passed"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What is found in the charts: see `failed`."""
    folder = tmp_path_factory.mktemp("rendered")
    for name, values in VALUES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump_all(helmtool.render(CHART, values)), encoding="utf-8")
    helmtool.update_dependencies(EXAMPLE)
    (folder / "sidecar.yaml").write_text(yaml.safe_dump_all(helmtool.render(EXAMPLE)), encoding="utf-8")
    return failed(folder)


def test_nothing_is_found_but_what_is_meant(found):
    rules, passed = found
    unknown = {rule: where for rule, where in rules.items() if rule not in NOT_FOLLOWED}
    assert unknown == {}, json.dumps({rule: sorted(where) for rule, where in unknown.items()}, indent=2)
    # A reason for nothing would hide something later.
    assert NOT_FOLLOWED.keys() - rules.keys() == set()
    assert passed > 500


def test_the_gateways_own_pod_lacks_nothing_but_what_depends_on_who_installs_it(found):
    rules, _ = found
    broken = {rule for rule, where in rules.items() if any("single.yaml StatefulSet" in one for one in where)}
    assert broken == {"CKV_K8S_11", "CKV_K8S_15", "CKV_K8S_21", "CKV_K8S_43"}


def test_a_pod_that_may_do_anything_is_found(tmp_path):
    objects = helmtool.render(CHART, VALUES["single"])
    [workload] = [made for made in objects if made["kind"] == "StatefulSet"]
    workload["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    (tmp_path / "privileged.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    rules, _ = failed(tmp_path)
    # Privileged; privileges to gain; capabilities.
    assert {"CKV_K8S_16", "CKV_K8S_20", "CKV_K8S_37"} <= rules.keys(), rules.keys()
