"""What is asked of any Kubernetes object that the project makes: schemas, and what schemas do not say."""

import functools
import re
from collections import Counter

import kubernetes_validate
from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator

# It would read definitions of some megabytes anew for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)

CUSTOM = {
    "Certificate": cert_manager.Certificate,
    "PodMonitor": prometheus_operator.PodMonitor,
    "ServiceMonitor": prometheus_operator.ServiceMonitor,
    "PrometheusRule": prometheus_operator.PrometheusRule,
}
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
# Settings that the restricted standard lets a pod make.
SYSCTLS = {"net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_keepalive_time", "net.ipv4.ping_group_range"}
PRIVATE = re.compile(r"PRIVATE KEY|\$argon2|\$2[aby]\$|\$6\$")


def lost(given, kept, path=""):
    """Paths of what a model of a custom resource does not know: it drops them without a word."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                yield f"{path}.{key}"
            else:
                yield from lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        for number, value in enumerate(given):
            yield from lost(value, kept[number], f"{path}[{number}]")


def against_schema(made, kubernetes):
    """Raises where an object does not fit the schema of its kind."""
    if made["kind"] in CUSTOM:
        model = CUSTOM[made["kind"]].model_validate(made)
        kept = model.model_dump(by_alias=True, exclude_unset=True, mode="json")
        assert list(lost(made, kept)) == []
    else:
        kubernetes_validate.validate(made, kubernetes.removeprefix("v").rsplit(".", 1)[0], strict=True)


def pod_of(made):
    """The pod specification of a workload, or None."""
    if made["kind"] == "Pod":
        return made["spec"]
    return made["spec"]["template"]["spec"] if made["kind"] in ("StatefulSet", "Deployment", "Job") else None


def pod_labels(made):
    return made["metadata"]["labels"] if made["kind"] == "Pod" else made["spec"]["template"]["metadata"]["labels"]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def problems(objects, is_host_network=False):
    """What is wrong with these objects, taken together."""
    workloads = [made for made in objects if pod_of(made)]
    present = {(made["kind"], made["metadata"]["name"]) for made in objects}
    for key, count in Counter((made["kind"], made["metadata"]["name"]) for made in objects).items():
        if count > 1:
            yield f"{key} is there {count} times"
    for made in objects:
        name = made["metadata"]["name"]
        if not NAME.fullmatch(name):
            yield f"{made['kind']} {name}: no name"
        for label, value in made["metadata"].get("labels", {}).items():
            if not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value):
                yield f"{name}: label {label} is no label: {value}"
        if PRIVATE.search(str(made)):
            yield f"{name}: holds a secret"
        if made["kind"] == "Service":
            yield from of_service(made, workloads)
    for made in workloads:
        yield from of_pod(made, present, is_host_network)


def mebibytes_needed(limits):
    """The memory that a gateway with these limits can come to need: itself, and each session with a transfer."""
    window = int(limits["transfer_window"].removesuffix("MiB"))
    return 64 + limits["sessions"] * (0.125 + 2 * window)


def of_service(made, workloads):
    name, spec = made["metadata"]["name"], made["spec"]
    if "sessionAffinity" in spec:
        yield f"{name}: session affinity"
    selector = {key: value for key, value in spec["selector"].items() if key != "statefulset.kubernetes.io/pod-name"}
    chosen = [one for one in workloads if selector.items() <= pod_labels(one).items()]
    if len(chosen) != 1:
        yield f"{name}: selects {len(chosen)} workloads"
        return
    declared = {port.get("name") for one in containers(pod_of(chosen[0])) for port in one.get("ports", [])}
    for key in ("name", "port", "nodePort"):
        values = [port[key] for port in spec["ports"] if key in port]
        if len(values) != len(set(values)):
            yield f"{name}: {key} twice"
    for port in spec["ports"]:
        if not PORT_NAME.fullmatch(port["name"]) or not 1 <= port["port"] <= 65535:
            yield f"{name}: port {port}"
        if port["targetPort"] not in declared:
            yield f"{name}: no container has port {port['targetPort']}"


def of_pod(made, present, is_host_network):
    name, pod = made["metadata"]["name"], pod_of(made)
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    ports = [port for one in containers(pod) for port in one.get("ports", [])]
    for key in ("name", "containerPort"):
        values = [port[key] for port in ports]
        if len(values) != len(set(values)):
            yield f"{name}: {key} twice"
    sysctls = {entry["name"]: entry["value"] for entry in pod.get("securityContext", {}).get("sysctls", [])}
    if sysctls.keys() - SYSCTLS or (sysctls and pod.get("hostNetwork")):
        yield f"{name}: sysctls"
    lowest = int(sysctls.get("net.ipv4.ip_unprivileged_port_start", 1024))
    for port in ports:
        if not PORT_NAME.fullmatch(port["name"]) or not max(lowest, 1) <= port["containerPort"] <= 65535:
            yield f"{name}: port {port}"
    for volume in volumes.values():
        if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in present:
            yield f"{name}: no ConfigMap {volume['configMap']['name']}"
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{name}: a token is mounted"
    if made["kind"] == "StatefulSet" and bool(pod.get("hostNetwork")) != is_host_network:
        yield f"{name}: hostNetwork"
    for one in containers(pod):
        for mount in one.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{name}: no volume {mount['name']}"
            if "subPath" in mount:
                yield f"{name}: {mount['name']} would never change again"
        own = {port["name"] for port in one.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in one and one[probe]["httpGet"]["port"] not in own:
                yield f"{name}: {probe} asks a port that there is not"
        yield from of_security(name, pod.get("securityContext", {}), one)


def of_security(name, of_pod, container):
    """The restricted pod security standard, a read-only root, and bounds."""
    context = of_pod | container.get("securityContext", {})
    wanted = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    for key, value in wanted.items():
        if context.get(key) is not value:
            yield f"{name}/{container['name']}: {key} is {context.get(key)}"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{name}/{container['name']}: capabilities"
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"{name}/{container['name']}: seccomp"
    if not context.get("runAsUser"):
        yield f"{name}/{container['name']}: runs as root"
    if context.get("privileged"):
        yield f"{name}/{container['name']}: privileged"
    if not {"cpu", "memory"} <= container.get("resources", {}).get("requests", {}).keys():
        yield f"{name}/{container['name']}: asks for no resources"
