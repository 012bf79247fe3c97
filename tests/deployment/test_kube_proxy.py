"""The chart's Services as kube-proxy lays them out, with a real client in front and real gateways behind: which shapes work.

Four kinds of network namespaces: a client, a node that forwards, two pods and the SFTP server. The node has the rules of
iptables that kube-proxy would make of the rendered Services. Addresses are those that documents and clusters use.
"""

import concurrent.futures
import contextlib
import re
import subprocess
from pathlib import Path

import gateway
import helmtool
import pytest
from network import Network

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/ftps2sftp"

CLIENTS = [f"198.51.100.{number}" for number in range(10, 30)]
PODS = {"gateway-ftps2sftp-0": ("pod-a", "10.244.0.2"), "gateway-ftps2sftp-1": ("pod-b", "10.244.1.2")}
# The addresses of two nodes, which a load balancer uses in turns.
NODES = ["172.18.0.2", "172.18.0.3"]
SFTP = "10.9.0.2"
# What the cluster's load balancers gave to Services, and the names that lead to them.
BALANCED = {
    "gateway-ftps2sftp-0": ("192.0.2.10", "gateway-ftps2sftp-0.ftps.example.com"),
    "gateway-ftps2sftp-1": ("192.0.2.11", "gateway-ftps2sftp-1.ftps.example.com"),
    "gateway-ftps2sftp": ("192.0.2.20", "ftps.example.com"),
}
MODES = {"EPSV": [], "PASV": ["--disable-epsv"]}
# Modules of the kernel that the rules need, each with a match that is this module's.
MODULES = {
    "xt_conntrack": "-m conntrack --ctstate DNAT",
    "xt_recent": "-m recent --name look --set",
    "xt_statistic": "-m statistic --mode nth --every 2 --packet 0",
}


def nat(objects, pods, policy):
    """The rules that kube-proxy would make of Services, in its order: a chain for each port, and one for each pod of it."""
    pod = next(made for made in objects if made["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    declared = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    services = [made for made in objects if made["kind"] == "Service" and made["spec"].get("clusterIP") != "None"]
    assert services
    heads, lines = [], []
    for service in services:
        address = BALANCED[service["metadata"]["name"]][0]
        only = service["spec"]["selector"].get("statefulset.kubernetes.io/pod-name")
        chosen = [PODS[name][1] for name in pods if only in (None, name)]
        affinity = service["spec"].get("sessionAffinity") == "ClientIP"
        for port in service["spec"]["ports"]:
            chain = f"SVC-{address}-{port['port']}"
            heads.append(f":{chain} - [0:0]")
            lines.append(f"-A SERVICES -d {address}/32 -p tcp --dport {port['port']} -j {chain}")
            if policy == "Cluster":
                lines.append(f"-A {chain} -j MARK --set-mark 0x4000")
            ends = [f"SEP-{number}-{address}-{port['port']}" for number in range(len(chosen))]
            if affinity:
                lines += [f"-A {chain} -m recent --name {end} --rcheck --seconds 10800 --reap -j {end}" for end in ends]
            for number, (end, to) in enumerate(zip(ends, chosen, strict=True)):
                left = len(chosen) - number
                chance = f"-m statistic --mode random --probability {1 / left:.6f} " if left > 1 else ""
                heads.append(f":{end} - [0:0]")
                lines.append(f"-A {chain} {chance}-j {end}")
                remember = f"-m recent --name {end} --set " if affinity else ""
                lines.append(f"-A {end} -p tcp {remember}-j DNAT --to-destination {to}:{declared[port['targetPort']]}")
    return [
        "*nat", ":SERVICES - [0:0]", *heads, "-A PREROUTING -j SERVICES", *lines,
        # With two nodes a client's second connection comes by way of the other one: here always, so that nothing is left
        # to chance.
        f"-A POSTROUTING -m mark --mark 0x4000 -m statistic --mode nth --every 2 --packet 0 -j SNAT --to-source {NODES[0]}",
        f"-A POSTROUTING -m mark --mark 0x4000 -j SNAT --to-source {NODES[1]}",
        "COMMIT",
        # Nobody outside reaches a pod but by a Service.
        "*filter", "-A FORWARD -i client -p tcp -m conntrack ! --ctstate DNAT -j REJECT --reject-with tcp-reset", "COMMIT",
    ]


def restore(network, name, *rules):
    """Rules in the place of those that a namespace has in the tables that are named. What iptables says where it fails."""
    command = [*network.inside(name), "iptables-restore"]
    done = subprocess.run(command, check=False, input="\n".join(rules) + "\n", capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr


def look_for_modules(network):
    """Fails where the kernel lacks a module, with its name, which iptables does not tell."""
    said = {module: restore(network, "node", "*filter", f"-A FORWARD {match}", "COMMIT") for module, match in MODULES.items()}
    missing = [module for module, failed in said.items() if failed]
    # The iptables that writes rules for nftables hands all matches of this kind to one more module.
    if missing == list(MODULES) and "nf_tables" in gateway.run("iptables", "--version").stdout:
        missing = ["nft_compat"]
    assert not missing, f"the kernel has no {', no '.join(missing)}, which the rules of Services need: {said}"


class Cluster:
    """The namespaces, the SFTP server, and whatever gateways the chart makes of values."""

    def __init__(self, folder):
        self.folder = folder
        self.gateways = []
        with contextlib.ExitStack() as made:
            self.network = Network("client", "node", "sftp", *[name for name, _ in PODS.values()])
            made.callback(self.network.end)
            look_for_modules(self.network)
            self.network.link("client", f"{CLIENTS[0]}/24", "node", "198.51.100.1/24")
            self.network.batch("client", *[f"address add {address}/24 dev eth0" for address in CLIENTS[1:]])
            for name, address in PODS.values():
                self.network.link(name, f"{address}/24", "node", f"{address.rpartition('.')[0]}.1/24")
            self.network.link("sftp", f"{SFTP}/24", "node", "10.9.0.1/24")
            self.network.batch("node", *[f"address add {address}/32 dev lo" for address in NODES])
            self.network.run("node", "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
            (folder / "ssh").mkdir()
            self.sshd = gateway.Sshd(folder / "ssh", SFTP, 22, self.network.inside("sftp"))
            self.sshd.start()
            made.callback(self.sshd.stop)
            gateway.signed_certificate(folder / "tls", [f"DNS:{name}" for _, name in BALANCED.values()])
            self.hash = gateway.run("openssl", "passwd", "-6", "secret").stdout
            self.hosts = folder / "hosts"
            names = {name: address for address, name in BALANCED.values()} | {"sftp.internal": SFTP}
            self.hosts.write_text("".join(f"{address} {name}\n" for name, address in names.items()), encoding="utf-8")
            made.callback(self.stop)
            self.made = made.pop_all()

    def values(self, **changes):
        """Values of the chart for one load balancer, with changes."""
        policy = changes.pop("policy", {})
        return {
            "service": {"type": "LoadBalancer"},
            "listeners": {"implicit": {"enabled": True}},
            "passive": {"ports": "30000-30003", "address": "ftps.example.com"},
            "tls": {"existingSecret": "ftps-tls"},
            "secrets": ["partners"],
            # It ends at once when a test is through with it.
            "shutdown": {"delaySeconds": 0, "drainSeconds": 0},
            "knownHosts": f"sftp.internal {(self.folder / 'ssh/host_key.pub').read_text()}",
            "config": {
                "backends": {"warehouse": {"address": "sftp.internal:22"}},
                "users": {
                    "acme": {
                        "password_hash": "${file:/secrets/partners/acme.hash}", "backend": "warehouse",
                        "login": {"user": "root", "private_key": "/secrets/partners/acme"}, "root": str(self.sshd.files),
                    }
                },
                "policy": policy,
            },
        } | changes

    def start(self, values, pods=tuple(PODS), affinity=False, policy=None):
        """Gateways in pods, and the node's rules. What the chart refuses is asked for here: pods, affinity, policy."""
        objects = helmtool.render(CHART, values)
        if affinity:
            for made in objects:
                if made["kind"] == "Service":
                    made["spec"]["sessionAffinity"] = "ClientIP"
        policy = policy or values["service"].get("externalTrafficPolicy", "Local")
        rules = nat(objects, pods, policy)
        failed = restore(self.network, "node", *rules)
        assert failed is None, "\n".join([*rules, failed])

        config = next(made for made in objects if made["kind"] == "ConfigMap" and "config.yaml" in made["data"])["data"]
        pod = next(made for made in objects if made["kind"] == "StatefulSet")["spec"]["template"]["spec"]
        files = {
            "/etc/ftps2sftp/known_hosts": config["known_hosts"],
            "/secrets/partners/acme.hash": self.hash,
            "/secrets/partners/acme": (self.folder / "ssh/login_key").read_text(),
        }
        file = self.folder / "etc/ftps2sftp/config.yaml"
        text = gateway.placed(config["config.yaml"], files, self.folder)
        file.write_text(text, encoding="utf-8")
        self.log = self.folder / "gateways.log"
        for name in pods:
            inside = self.network.inside(PODS[name][0], self.hosts)
            environment = gateway.environment_of(pod["containers"][0], name)
            with self.log.open("a") as log:
                command = [*inside, gateway.binary(), "run", "--config", file]
                self.gateways.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
        for name in pods:
            asked = [*self.network.inside(PODS[name][0]), "curl", "--silent", "--fail", "http://127.0.0.1:9105/readyz"]
            gateway.wait_for(lambda asked=asked: subprocess.run(asked, check=False, capture_output=True).returncode == 0, name)

    def stop(self):
        with contextlib.ExitStack() as waited:
            while self.gateways:
                one = self.gateways.pop()
                one.terminate()
                waited.callback(gateway.wait, one)

    def end(self):
        self.made.close()

    def transfer(self, service, number=0, mode="EPSV", url="ftp://{}/", read_back=True, arguments=()):
        """One upload, read back in the same session, from one of the clients. What curl says where it fails, else nothing."""
        sent, fetched = self.folder / f"sent-{number}", self.folder / f"fetched-{number}"
        sent.write_text(f"from client {number}", encoding="utf-8")
        fetched.unlink(missing_ok=True)
        # An address that PASV tells is used, as most clients do; curl's default is to dial the same one again.
        how = ["--ssl-reqd", "--cacert", self.folder / "tls/authority.crt", "--user", "acme:secret", "--no-ftp-skip-pasv-ip",
               "--connect-timeout", "5", "--max-time", "15", "--interface", CLIENTS[number], *MODES[mode], *arguments]
        file = f"{url.format(BALANCED[service][1])}file-{number}"
        command = ["curl", "--silent", "--show-error", "--fail-early", *how, "--upload-file", sent, file]
        if read_back:
            command += ["--next", *how, "--output", fetched, file]
        command = [*self.network.inside("client", self.hosts), *command]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            return done.stderr
        came = fetched if read_back else self.sshd.files / f"file-{number}"
        return None if came.read_bytes() == sent.read_bytes() else "another file came"

    def transfers(self, service, mode="EPSV", clients=6, **how):
        """One transfer of each client, some at a time: what failed."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            done = pool.map(lambda number: self.transfer(service, number, mode, **how), range(clients))
            return [said for said in done if said]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def cluster(whole):
    """Without gateways, before and after."""
    try:
        yield whole
    finally:
        whole.stop()


def test_a_service_for_each_pod_carries_every_transfer(cluster):
    values = cluster.values(mode="perPod", replicas=2, perPod={"hostname": "POD.ftps.example.com"})
    del values["passive"]["address"]
    cluster.start(values)
    for service in PODS:
        for mode in MODES:
            assert cluster.transfers(service, mode) == [], f"{service} {mode} {cluster.log.read_text()}"
        assert cluster.transfer(service, url="ftps://{}/") is None


@pytest.mark.parametrize("affinity", [False, True], ids=["by chance", "session affinity"])
def test_one_service_for_two_pods_loses_transfers_whatever_the_affinity(cluster, affinity):
    values = cluster.values()
    for refused in ({"replicas": 2}, {"service": values["service"] | {"sessionAffinity": "ClientIP"}}):
        with pytest.raises(helmtool.RefusedValues) as said:
            helmtool.render(CHART, values | refused)
        assert "mode: perPod" in str(said.value)
    cluster.start(values, affinity=affinity)
    for mode in MODES:
        # Some wait for an answer about a connection that came to the other pod.
        how = {"read_back": False, "arguments": ["--max-time", "8"]}
        failed = cluster.transfers("gateway-ftps2sftp", mode, len(CLIENTS), **how)
        # Each data connection has an even chance: that all twenty clients are lucky, or none, happens once in a million.
        assert 0 < len(failed) < len(CLIENTS), failed


def test_one_service_for_one_pod_carries_every_transfer(cluster):
    cluster.start(cluster.values(), pods=["gateway-ftps2sftp-0"])
    for mode in MODES:
        assert cluster.transfers("gateway-ftps2sftp", mode) == [], cluster.log.read_text()


def test_s38_a_client_beyond_a_translator_is_told_the_outer_address_and_no_other(cluster):
    cluster.start(cluster.values(), pods=["gateway-ftps2sftp-0"])
    inner = PODS["gateway-ftps2sftp-0"][1]
    for mode, told in [("PASV", "227 .*\\(192,0,2,20,"), ("EPSV", "229 .*\\(\\|\\|\\|3000[0-3]\\|\\)")]:
        heard = cluster.folder / "heard"
        assert cluster.transfer("gateway-ftps2sftp", mode=mode, arguments=["--verbose", "--stderr", heard]) is None
        heard = heard.read_text()
        assert re.search(told, heard), heard
        assert inner not in heard and inner.replace(".", ",") not in heard, heard


def test_the_address_of_a_pod_must_not_be_announced(cluster):
    values = cluster.values()
    values["passive"]["address"] = "auto"
    with pytest.raises(helmtool.RefusedValues, match="would announce it to them"):
        helmtool.render(CHART, values)
    # What the chart refuses, written in the only way that passes it.
    values["passive"]["overrides"] = [{"clients": "0.0.0.0/0", "address": "auto"}]
    cluster.start(values, pods=["gateway-ftps2sftp-0"])
    assert cluster.transfer("gateway-ftps2sftp", mode="PASV") is not None
    # EPSV tells a port only.
    assert cluster.transfer("gateway-ftps2sftp", mode="EPSV") is None


def test_hidden_addresses_of_clients_break_data_connections(cluster):
    values = cluster.values(service={"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"})
    with pytest.raises(helmtool.RefusedValues, match="Cluster hides clients' addresses"):
        helmtool.render(CHART, values)
    values["service"]["externalTrafficPolicy"] = "Local"
    cluster.start(values, pods=["gateway-ftps2sftp-0"], policy="Cluster")
    for mode in MODES:
        for number in range(2):
            assert cluster.transfer("gateway-ftps2sftp", number, mode) is not None


def test_hidden_addresses_of_clients_work_where_the_tls_session_vouches_for_them(cluster):
    policy = {"data_peer_check": False, "data_tls_resumption": "require"}
    values = cluster.values(policy=policy, service={"type": "LoadBalancer", "externalTrafficPolicy": "Cluster"})
    cluster.start(values, pods=["gateway-ftps2sftp-0"])
    # Several at a time: their data connections come from the addresses of each other's control connections.
    for mode in MODES:
        # Of a session under TLS 1.3, curl resumes the first data connection only.
        failed = cluster.transfers("gateway-ftps2sftp", mode, arguments=["--tls-max", "1.2"])
        assert failed == [], cluster.log.read_text()
        failed = cluster.transfers("gateway-ftps2sftp", mode, read_back=False)
        assert failed == [], cluster.log.read_text()


def test_helm_test_stores_a_file_and_leaves_none(cluster):
    values = cluster.values(test={"url": "ftp://acme@ftps.example.com/", "existingSecret": "ftps-test"})
    cluster.start(values, pods=["gateway-ftps2sftp-0"])
    [container] = [made["spec"]["containers"][0] for made in helmtool.render(CHART, values) if made["kind"] == "Pod"]
    secret = {"password": "secret\n", "ca.crt": (cluster.folder / "tls/authority.crt").read_text()}
    (cluster.folder / "test").mkdir()
    for key, content in secret.items():
        (cluster.folder / "test" / key).write_text(content, encoding="utf-8")
    arguments = [argument.replace("/test/", f"{cluster.folder}/test/") for argument in container["args"]]
    before = set(cluster.sshd.files.iterdir())
    command = [*cluster.network.inside("client", cluster.hosts), gateway.binary(), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(step in done.stdout for step in ("login", "upload", "download", "list", "delete")), done.stdout
    assert set(cluster.sshd.files.iterdir()) == before
