"""The charts, rendered by the real Helm: that they make what they say, and refuse what cannot work."""

import re
from pathlib import Path

import gateway
import helmtool
import manifests
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/ftps2sftp"
EXAMPLE = ROOT / "helm/examples/sidecar-app"
WRONG = Path(__file__).parent / "wrong-values"
VALUES = {file.stem.removesuffix("-values"): yaml.safe_load(file.read_text()) for file in sorted(CHART.glob("ci/*.yaml"))}


# Those with which the chart itself writes the configuration.
OWN = [name for name in VALUES if not VALUES[name].get("existingConfigMap")]


def one(objects, kind, name=None):
    """The only object of a kind (and name)."""
    [found] = [made for made in objects if made["kind"] == kind and name in (None, made["metadata"]["name"])]
    return found


def own_config(objects):
    return yaml.safe_load(one(objects, "ConfigMap", "gateway-ftps2sftp")["data"]["config.yaml"])


@pytest.mark.parametrize("values", VALUES)
def test_lint_finds_nothing(values):
    assert helmtool.lint(CHART, VALUES[values]) == []


@pytest.mark.parametrize("kubernetes", helmtool.KUBERNETES)
@pytest.mark.parametrize("values", VALUES)
def test_objects_fit_their_schemas(values, kubernetes):
    for made in helmtool.render(CHART, VALUES[values], kubernetes=kubernetes):
        manifests.against_schema(made, kubernetes)


@pytest.mark.parametrize("values", VALUES)
def test_objects_fit_each_other_and_the_restricted_standard(values):
    objects = helmtool.render(CHART, VALUES[values])
    if values not in OWN:
        objects.append({"kind": "ConfigMap", "metadata": {"name": VALUES[values]["existingConfigMap"]}})
    assert list(manifests.problems(objects, is_host_network=values == "host-network")) == []


def test_problems_of_objects_are_found():
    objects = helmtool.render(CHART, VALUES["single"])
    service = one(objects, "Service", "gateway-ftps2sftp")
    service["spec"]["ports"][0]["targetPort"] = "explizit"
    service["spec"]["sessionAffinity"] = "ClientIP"
    one(objects, "Service", "gateway-ftps2sftp-pods")["spec"]["selector"] = {"app": "another"}
    pod = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    pod["containers"][0]["ports"][0]["containerPort"] = 21
    pod["volumes"][0]["configMap"]["name"] = "another"
    assert sorted(manifests.problems(objects)) == [
        "gateway-ftps2sftp-pods: selects 0 workloads",
        "gateway-ftps2sftp/ftps2sftp: readOnlyRootFilesystem is False",
        "gateway-ftps2sftp: no ConfigMap another",
        "gateway-ftps2sftp: no container has port explizit",
        "gateway-ftps2sftp: port {'name': 'explicit', 'containerPort': 21}",
        "gateway-ftps2sftp: session affinity",
    ]


@pytest.mark.parametrize("values", OWN)
def test_the_gateway_accepts_the_configuration(values, tmp_path):
    objects = helmtool.render(CHART, VALUES[values])
    made = one(objects, "ConfigMap", "gateway-ftps2sftp")
    gateway.certificate(tmp_path / "tls")
    gateway.ssh_key(tmp_path / "secrets/partners/acme")
    authority = (tmp_path / "tls/tls.crt").read_text()
    files = {
        "/etc/ftps2sftp/known_hosts": made["data"]["known_hosts"],
        "/client-ca/ca.crt": authority,
        "/secrets/partners/acme.hash": gateway.run("openssl", "passwd", "-6", "secret").stdout,
    }
    container = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    environment = gateway.environment_of(container, "gateway-ftps2sftp-0")
    said = gateway.check_configuration(made["data"]["config.yaml"], files, tmp_path, environment)
    assert re.search(r"^configuration +ok .* is valid$", said, re.MULTILINE), said
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for path in re.findall(r"(?<=[ :])/[\w/.-]+", made["data"]["config.yaml"]):
        assert any(path.startswith(f"{folder}/") for folder in mounted), path


@pytest.mark.parametrize("file", sorted(WRONG.glob("*.yaml")), ids=lambda file: file.stem)
def test_values_that_cannot_work_are_refused_with_a_reason(file):
    expected = file.with_suffix(".txt").read_text(encoding="utf-8").strip()
    with pytest.raises(helmtool.RefusedValues) as refused:
        helmtool.render(CHART, yaml.safe_load(file.read_text(encoding="utf-8")))
    assert expected in str(refused.value)


@pytest.mark.parametrize("values", OWN)
def test_one_value_says_which_ports_data_connections_have(values):
    changed = VALUES[values] | {"passive": VALUES[values].get("passive", {}) | {"ports": "32000-32003"}}
    objects = helmtool.render(CHART, changed)
    expected = {32000, 32001, 32002, 32003}
    assert own_config(objects)["passive"]["ports"] == "32000-32003"
    [container] = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert {port["containerPort"] for port in container["ports"] if port["name"].startswith("passive")} == expected
    for service in (made for made in objects if made["kind"] == "Service" and made["spec"].get("clusterIP") != "None"):
        ports = [port for port in service["spec"]["ports"] if port["name"].startswith("passive")]
        assert {port["port"] for port in ports} == expected
        assert {port["targetPort"] for port in ports} == {f"passive-{port}" for port in expected}
        if service["spec"]["type"] == "NodePort":
            assert {port["nodePort"] for port in ports} == expected
    for policy in (made for made in objects if made["kind"] == "NetworkPolicy"):
        assert {"protocol": "TCP", "port": 32000, "endPort": 32003} in policy["spec"]["ingress"][0]["ports"]
    assert not re.search(r"3004[0-9]|31015|40009", yaml.safe_dump(objects))


def test_each_pod_has_a_service_and_a_name_of_its_own():
    objects = helmtool.render(CHART, VALUES["per-pod"])
    for number in range(3):
        service = one(objects, "Service", f"gateway-ftps2sftp-{number}")
        assert service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"] == f"gateway-ftps2sftp-{number}"
        annotations = service["metadata"]["annotations"]
        assert annotations["external-dns.alpha.kubernetes.io/hostname"] == f"gateway-ftps2sftp-{number}.ftps.example.com"
    assert one(objects, "Service", "gateway-ftps2sftp-1")["metadata"]["annotations"]["example.com/address"] == "192.0.2.2"
    assert "gateway-ftps2sftp" not in [made["metadata"]["name"] for made in objects if made["kind"] == "Service"]
    [container] = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert {"name": "PASSIVE_ADDRESS", "value": "$(POD_NAME).ftps.example.com"} in container["env"]
    # The one is put into the other only if it stands before it.
    assert [entry["name"] for entry in container["env"]] == ["POD_NAME", "PASSIVE_ADDRESS"]


@pytest.mark.parametrize("values", ["single", "load-balancer", "node-port", "per-pod"])
def test_sessions_of_a_gateway_that_takes_no_new_ones_still_open_data_connections(values):
    services = [made["spec"] for made in helmtool.render(CHART, VALUES[values]) if made["kind"] == "Service"]
    of_clients = [spec for spec in services if spec.get("clusterIP") != "None"]
    assert of_clients
    assert all(spec["publishNotReadyAddresses"] is True for spec in of_clients)


def test_gateways_on_nodes_have_no_service_and_keep_apart():
    objects = helmtool.render(CHART, VALUES["host-network"])
    services = [made for made in objects if made["kind"] == "Service"]
    assert [service["spec"]["clusterIP"] for service in services] == ["None"]
    pod = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["hostNetwork"] is True
    assert pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]


@pytest.mark.parametrize(("values", "replicas"), [("single", 0), ("load-balancer", 0), ("per-pod", 1), ("host-network", 1)])
def test_a_disruption_budget_is_for_more_than_one_pod(values, replicas):
    objects = helmtool.render(CHART, VALUES[values])
    assert len([made for made in objects if made["kind"] == "PodDisruptionBudget"]) == replicas


def test_policies_let_out_to_name_servers_and_backends_only():
    policy = one(helmtool.render(CHART, VALUES["load-balancer"]), "NetworkPolicy")["spec"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["egress"]] == [[53, 53], [22, 2222]]
    policy = one(helmtool.render(CHART, VALUES["per-pod"]), "NetworkPolicy")["spec"]
    assert policy["egress"][1]["to"] == [{"ipBlock": {"cidr": "10.9.0.0/16"}}]
    assert policy["ingress"][0]["from"][0] == {"ipBlock": {"cidr": "198.51.100.0/24"}}
    metrics = policy["ingress"][1]
    assert metrics["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


@pytest.mark.parametrize("values", OWN)
def test_a_pod_is_not_killed_before_it_has_drained(values):
    objects = helmtool.render(CHART, VALUES[values])
    seconds = {key: int(value.removesuffix("s")) for key, value in own_config(objects)["shutdown"].items()}
    grace = one(objects, "StatefulSet")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= seconds["delay"] + seconds["drain"] + 10


def test_a_configuration_of_somebody_elses_takes_the_place_of_the_charts():
    ours = {key: value for key, value in VALUES["single"].items() if key not in ("config", "knownHosts")}
    objects = helmtool.render(CHART, ours | {"existingConfigMap": "partners-gateway"})
    assert not [made for made in objects if made["kind"] == "ConfigMap"]
    # All else is as with the chart's own, so what the gateway makes of that holds for a copy of it.
    theirs, own = (one(made, "StatefulSet") for made in (objects, helmtool.render(CHART, VALUES["single"])))
    [volume] = [found for found in theirs["spec"]["template"]["spec"]["volumes"] if found["name"] == "config"]
    assert volume == {"name": "config", "configMap": {"name": "partners-gateway"}}
    volume["configMap"]["name"] = "gateway-ftps2sftp"
    # Of what it cannot read it cannot tell when it changes.
    del own["spec"]["template"]["metadata"]["annotations"]["checksum/fixed-config"]
    assert theirs == own
    policy = one(objects, "NetworkPolicy")["spec"]
    assert [port["port"] for port in policy["egress"][1]["ports"]] == [22]
    policy = one(helmtool.render(CHART, VALUES["existing-config-map"]), "NetworkPolicy")["spec"]
    assert [port["port"] for port in policy["egress"][1]["ports"]] == [22, 2222]


def test_notes_say_who_has_the_configuration():
    said = helmtool.notes(CHART, VALUES["existing-config-map"])
    assert "the ConfigMap partners-gateway" in said and "30000 to 30047 for data" in said
    assert "are announced for" not in said
    assert "partners-gateway" not in helmtool.notes(CHART, VALUES["single"])


def test_low_ports_are_a_setting_of_the_pod_and_not_a_capability():
    objects = helmtool.render(CHART, VALUES["low-ports"])
    pod = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["securityContext"]["sysctls"] == [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]
    assert [listener["address"] for listener in own_config(objects)["listeners"]] == ["0.0.0.0:21", "0.0.0.0:990"]
    assert {port["containerPort"] for port in pod["containers"][0]["ports"]} >= {21, 990}
    pod = one(helmtool.render(CHART, VALUES["single"]), "StatefulSet")["spec"]["template"]["spec"]
    assert "sysctls" not in pod["securityContext"]


def test_what_is_taken_over_while_it_runs_does_not_replace_pods():
    def checksum(config):
        objects = helmtool.render(CHART, VALUES["single"] | {"config": VALUES["single"]["config"] | config})
        return one(objects, "StatefulSet")["spec"]["template"]["metadata"]["annotations"]["checksum/fixed-config"]

    assert checksum({}) == checksum({"policy": {"umask": "077"}})
    assert checksum({}) != checksum({"limits": {"sessions": 5}})


def test_numbers_stay_whole():
    config = VALUES["single"]["config"] | {"limits": {"sessions": 1000000}}
    objects = helmtool.render(CHART, VALUES["single"] | {"config": config, "resources": {"limits": {"memory": "1Ti"}}})
    assert "sessions: 1000000" in one(objects, "ConfigMap")["data"]["config.yaml"]


@pytest.mark.parametrize(
    ("memory", "limits", "sessions", "window"),
    [
        ("512Mi", {}, 210, "1MiB"),
        ("1Gi", {}, 451, "1MiB"),
        ("1.5G", {}, 643, "1MiB"),
        (536870912, {}, 210, "1MiB"),
        ("512Mi", {"failed_logins": {"per_ip": None}}, 210, "1MiB"),
        ("512Mi", {"transfer_window": "8MiB"}, 27, "8MiB"),
        # Whoever says so knows how many of them transfer files at a time.
        ("512Mi", {"sessions": 3000}, 3000, "1MiB"),
        ("1Ti", {}, 10000, "1MiB"),
    ],
)
def test_sessions_fit_into_the_memory_limit(memory, limits, sessions, window):
    values = VALUES["single"] | {"resources": {"limits": {"memory": memory}}}
    made = own_config(helmtool.render(CHART, values | {"config": values["config"] | {"limits": limits}}))["limits"]
    assert made == limits | {"sessions": sessions, "transfer_window": window}
    assert f"At most {sessions} sessions" in helmtool.notes(CHART, values | {"config": values["config"] | {"limits": limits}})
    if "sessions" not in limits:
        mebibytes = {"1.5G": 1500000000 / 1048576, "1Gi": 1024, "1Ti": 1048576}.get(memory, 512)
        assert manifests.mebibytes_needed(made) <= mebibytes


def test_without_a_memory_limit_the_gateways_own_limits_hold():
    objects = helmtool.render(CHART, VALUES["single"] | {"resources": {"limits": {"memory": None}}})
    assert "limits" not in own_config(objects)


def test_the_rules_are_those_of_prometheus():
    spec = one(helmtool.render(CHART, VALUES["per-pod"]), "PrometheusRule")["spec"]
    expected = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text(encoding="utf-8"))
    for group in expected["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") != "Ftps2sftpLegacyUseGone"]
        for rule in group["rules"]:
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = f"https://runbooks.example.com/ftps2sftp#{rule['alert'].lower()}"
            rule["expr"] = rule["expr"].replace('job=~".*ftps2sftp.*"', 'job="ftps2sftp"')
    assert spec == expected


@pytest.mark.parametrize(("override", "name"), [({}, "ftps2sftp"), ({"nameOverride": "partners"}, "partners")])
def test_the_alert_about_a_gateway_that_is_down_knows_its_job(override, name):
    objects = helmtool.render(CHART, VALUES["per-pod"] | override)
    [down] = [rule for group in one(objects, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]
              if rule.get("alert") == "Ftps2sftpDown"]
    assert down["expr"] == f'up{{job="{name}"}} == 0'
    label = one(objects, "PodMonitor")["spec"]["jobLabel"]
    assert one(objects, "StatefulSet")["spec"]["template"]["metadata"]["labels"][label] == name


def test_the_dashboard_is_that_of_grafana():
    made = one(helmtool.render(CHART, VALUES["per-pod"]), "ConfigMap", "gateway-ftps2sftp-dashboard")
    assert made["data"]["ftps2sftp.json"] == (ROOT / "deploy/grafana/ftps2sftp.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("values", "kind"), [("per-pod", "PodMonitor"), ("host-network", "ServiceMonitor")])
def test_monitors_look_at_a_port_that_there_is(values, kind):
    objects = helmtool.render(CHART, VALUES[values])
    spec = one(objects, kind)["spec"]
    [endpoint] = spec.get("podMetricsEndpoints") or spec["endpoints"]
    [container] = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert endpoint["port"] in [port["name"] for port in container["ports"]]
    if kind == "ServiceMonitor":
        wanted = spec["selector"]["matchLabels"].items()
        services = [made for made in objects if made["kind"] == "Service"]
        assert len([made for made in services if wanted <= made["metadata"]["labels"].items()]) == 1


def test_the_image_is_that_of_the_chart_unless_a_digest_is_given():
    [container] = one(helmtool.render(CHART, VALUES["single"]), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert container["image"] == f"ftps2sftp:{version}"
    assert f'version = "{version}"' in (ROOT / "Cargo.toml").read_text()
    [container] = one(helmtool.render(CHART, VALUES["host-network"]), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("ftps2sftp@sha256:")


@pytest.mark.parametrize("values", OWN)
def test_the_notes_tell_which_ports_to_open(values):
    said = helmtool.notes(CHART, VALUES[values])
    first, last = own_config(helmtool.render(CHART, VALUES[values]))["passive"]["ports"].split("-")
    assert f"{first} to {last} for data" in said
    assert "From 10 seconds after it was told to stop" in said and "300 seconds later at most" in said


def probes(objects):
    return [made for made in objects if made["kind"] == "Pod"]


def test_probes_of_helm_test_are_those_of_the_image_itself():
    objects = helmtool.render(CHART, VALUES["host-network"])
    pods = probes(objects)
    assert [pod["spec"]["containers"][0]["args"] for pod in pods] == [
        ["probe", "--tls-only", "--insecure", "ftpes://gateway-ftps2sftp-pods:2121"],
        ["probe", "--tls-only", "--insecure", "ftps://gateway-ftps2sftp-pods:2990"],
    ]
    [container] = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert {pod["spec"]["containers"][0]["image"] for pod in pods} == {container["image"]}
    said = helmtool.notes(CHART, VALUES["host-network"])
    assert "as far as TLS" in said and "helm -n files test gateway" in said


@pytest.mark.parametrize("existing", [True, False])
def test_helm_test_logs_in_with_a_secret_that_is_for_it(existing):
    # Through the load balancer, which writes the PROXY header that is asked for.
    url = "ftp://probe@ftps.example.com/incoming"
    values = VALUES["load-balancer"] | ({"test": {"url": url, "existingSecret": "ftps-test"}} if existing else {})
    pods = probes(helmtool.render(CHART, values))
    said = helmtool.notes(CHART, values)
    assert ("helm -n files test gateway" in said) is existing
    assert ("has nothing to try: connections must begin with a PROXY header" in said) is not existing
    if not existing:
        assert pods == []
        return
    [pod] = pods
    [container] = pod["spec"]["containers"]
    assert container["args"] == ["probe", "--ca", "/test/ca.crt", "--password-file", "/test/password", url]
    [volume], [mount] = pod["spec"]["volumes"], container["volumeMounts"]
    assert volume["secret"]["secretName"] == "ftps-test"
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/test")


def test_helm_test_is_not_there_where_clients_must_show_a_certificate():
    changed = VALUES["single"] | {
        "tls": {"existingSecret": "ftps-tls", "clientCertificates": "required", "clientCaSecret": "partners-ca"}
    }
    assert probes(helmtool.render(CHART, changed)) == []
    said = helmtool.notes(CHART, changed)
    assert "has nothing to try: clients must show a certificate" in said and "helm -n files test" not in said


@pytest.mark.parametrize("exposed", [True, False])
def test_on_nodes_the_status_page_is_on_the_loopback_unless_asked(exposed):
    values = VALUES["host-network"] | {"metrics": {"exposeOnNodes": exposed}}
    objects = helmtool.render(CHART, values)
    assert own_config(objects)["admin"]["address"] == ("0.0.0.0:9105" if exposed else "127.0.0.1:9105")
    [container] = one(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    # Kubelet asks the pod's address where none is said; and from inside the node's network it reaches this one always.
    assert {container[probe]["httpGet"]["host"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {"127.0.0.1"}
    said = helmtool.notes(CHART, values)
    assert ("WARNING: whoever reaches port 9105 of these nodes" in said) is exposed
    [container] = one(helmtool.render(CHART, VALUES["single"]), "StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert "host" not in container["livenessProbe"]["httpGet"]


def test_the_packaged_chart_renders_the_same(tmp_path):
    packaged = helmtool.package(CHART, tmp_path)
    assert helmtool.render_files(packaged, VALUES["per-pod"]) == helmtool.render_files(CHART, VALUES["per-pod"])


def test_an_old_kubernetes_is_refused_by_the_charts_constraint():
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"] == ">=1.27.0-0"
    assert yaml.safe_load((EXAMPLE / "Chart.yaml").read_text())["kubeVersion"] == ">=1.29.0-0"


# The library chart, in the chart of an application.


@pytest.fixture(scope="module")
def application():
    helmtool.update_dependencies(EXAMPLE)
    return helmtool.render(EXAMPLE)


@pytest.mark.parametrize("kubernetes", ["v1.29.0", "v1.37.0"])
def test_the_application_with_a_sidecar_fits_its_schemas(application, kubernetes):
    for made in application:
        manifests.against_schema(made, kubernetes)
    assert list(manifests.problems(application)) == []


def test_the_sidecar_is_ready_before_the_application_starts(application):
    [sidecar] = one(application, "Deployment")["spec"]["template"]["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/startz"


def test_the_sidecar_is_for_its_own_pod_alone(application):
    config = yaml.safe_load(one(application, "ConfigMap")["data"]["config.yaml"])
    assert {listener["address"].split(":")[0] for listener in config["listeners"]} == {"127.0.0.1"}
    assert not [made for made in application if made["kind"] == "Service"]


def test_metrics_of_the_sidecar_are_found_under_a_job_that_the_alerts_know(application):
    monitor = one(application, "PodMonitor")["spec"]
    template = one(application, "Deployment")["spec"]["template"]
    assert monitor["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    [endpoint] = monitor["podMetricsEndpoints"]
    [sidecar] = template["spec"]["initContainers"]
    assert endpoint["port"] in [port["name"] for port in sidecar["ports"]]
    [relabeling] = endpoint["relabelings"]
    assert relabeling["targetLabel"] == "job" and "ftps2sftp" in relabeling["replacement"]
    without = helmtool.render(EXAMPLE, {"ftps2sftp-lib": {"podMonitor": {"enabled": False}}})
    assert not [made for made in without if made["kind"] == "PodMonitor"]


def test_sessions_of_the_sidecar_fit_into_its_memory_limit(application):
    limits = yaml.safe_load(one(application, "ConfigMap")["data"]["config.yaml"])["limits"]
    [sidecar] = one(application, "Deployment")["spec"]["template"]["spec"]["initContainers"]
    assert limits == {"sessions": 90, "transfer_window": "1MiB"}
    assert sidecar["resources"]["limits"]["memory"] == "256Mi"
    assert manifests.mebibytes_needed(limits) <= 256
    changed = helmtool.render(EXAMPLE, {"ftps2sftp-lib": {"config": {"limits": {"sessions": 5}}}})
    limits = yaml.safe_load(one(changed, "ConfigMap")["data"]["config.yaml"])["limits"]
    assert limits == {"sessions": 5, "transfer_window": "1MiB"}


def test_the_gateway_accepts_the_configuration_of_the_sidecar(application, tmp_path):
    made = one(application, "ConfigMap")
    gateway.certificate(tmp_path / "tls")
    gateway.ssh_key(tmp_path / "secrets/uploader-sftp/id_ed25519")
    files = {
        "/etc/ftps2sftp/known_hosts": made["data"]["known_hosts"],
        "/secrets/uploader-sftp/password.hash": gateway.run("openssl", "passwd", "-6", "secret").stdout,
    }
    said = gateway.check_configuration(made["data"]["config.yaml"], files, tmp_path, {})
    assert re.search(r"^configuration +ok .* is valid$", said, re.MULTILINE), said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tlsSecret": ""}, "ftps2sftp-lib.tlsSecret: there is no FTPS without a certificate."),
        ({"podMonitor": {"podLabels": None}}, "ftps2sftp-lib.podMonitor.podLabels: nothing says which pods are meant."),
        ({"config": {"users": None}}, "ftps2sftp-lib.config.users: is missing"),
        ({"config": {"passive": {"ports": "1-2"}}}, "ftps2sftp-lib.config.passive: the library writes this part."),
    ],
)
def test_the_library_refuses_what_cannot_work(application, change, message):
    with pytest.raises(helmtool.RefusedValues) as refused:
        helmtool.render(EXAMPLE, {"ftps2sftp-lib": change})
    assert message in str(refused.value)
