"""The sidecar in a pod: the containers of the rendered example, with one network, in the order in which kubelet starts them.

podman runs them as their descriptions say, limits of memory and processor aside, which this kind of machine does not grant
everywhere. The application is a container of the gateway's own image, for its FTPS client, or curl of this machine.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import time
from pathlib import Path

import gateway
import helmtool
import images
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/ftps2sftp"
EXAMPLE = ROOT / "helm/examples/sidecar-app"
APPLICATION_USER = 10001


class Pod:
    """A pod of podman's, an SFTP server in its network, and containers as Kubernetes describes them."""

    def __init__(self, folder, image, environment, sysctls=()):
        self.folder, self.image, self.environment = folder, image, environment
        self.started = []
        self.name = f"ftps2sftp-{os.getpid()}-{folder.name}"
        (folder / "ssh").mkdir()
        gateway.signed_certificate(folder / "certificate")
        settings = [f"--sysctl={entry['name']}={entry['value']}" for entry in sysctls]
        # Kubelet writes this file, too, with what `hostAliases` of a pod say.
        self.hosts = folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n127.0.0.1 sftp.internal\n", encoding="utf-8")
        with contextlib.ExitStack() as made:
            # Undone last: containers end with their pod.
            made.callback(self.wait)
            # Of a creation that fails half-way, something may be there.
            made.callback(self.podman, "pod", "rm", "--force", "--ignore", "--time=0", self.name)
            self.podman("pod", "create", "--name", self.name, "--network=none", *settings)
            self.podman("pod", "start", self.name)
            infra = self.podman("pod", "inspect", "--format", "{{.InfraContainerID}}", self.name)
            self.process = self.podman("inspect", "--format", "{{.State.Pid}}", infra)
            self.inside = ["nsenter", f"--net=/proc/{self.process}/ns/net"]
            self.sshd = gateway.Sshd(folder / "ssh", port=22, inside=self.inside)
            self.sshd.start()
            made.callback(self.sshd.stop)
            self.made = made.pop_all()

    def podman(self, *arguments):
        return gateway.run("podman", *arguments, env=self.environment).stdout.strip()

    def render(self, backend=None, **sidecar):
        """The example's objects, for the SFTP server of this pod, or with another backend and other values of the sidecar."""
        helmtool.update_dependencies(EXAMPLE)
        user = {
            "password_hash": "${file:/secrets/uploader-sftp/password.hash}", "backend": "warehouse",
            "login": {"user": "root", "private_key": "/secrets/uploader-sftp/id_ed25519"}, "root": str(self.sshd.files),
        }
        known = f"sftp.internal {(self.folder / 'ssh/host_key.pub').read_text()}"
        config = {"users": {"uploader": user}} | ({"backends": {"warehouse": backend}} if backend else {})
        objects = helmtool.render(EXAMPLE, {"ftps2sftp-lib": {"knownHosts": known, "config": config} | sidecar})
        [deployment] = [made for made in objects if made["kind"] == "Deployment"]
        [config] = [made for made in objects if made["kind"] == "ConfigMap"]
        secrets = {
            "uploader-ftps": {name: (self.folder / "certificate" / name).read_text() for name in ("tls.crt", "tls.key")},
            "uploader-sftp": {
                "id_ed25519": (self.folder / "ssh/login_key").read_text(),
                "password.hash": gateway.run("openssl", "passwd", "-6", "secret").stdout,
            },
        }
        return deployment["spec"]["template"]["spec"], {config["metadata"]["name"]: config["data"]}, secrets

    def volumes(self, pod, config_maps, secrets):
        """Folders with what the pod's volumes are made of, as kubelet leaves them: root's, and readable for the fsGroup."""
        made = {}
        for volume in pod["volumes"]:
            if "configMap" in volume:
                data, mode = config_maps[volume["configMap"]["name"]], 0o644
            else:
                data, mode = secrets[volume["secret"]["secretName"]], volume["secret"]["defaultMode"]
            folder = self.folder / "volumes" / volume["name"]
            folder.mkdir(parents=True)
            for name, content in data.items():
                (folder / name).write_text(content, encoding="utf-8")
                (folder / name).chmod(mode)
                os.chown(folder / name, 0, pod["securityContext"]["fsGroup"])
            made[volume["name"]] = folder
        return made

    def start(self, container, pod, volumes, *extra, image=None, arguments=()):
        """A container with what its description asks for; the image and arguments may be others."""
        context = pod["securityContext"] | container["securityContext"]
        # What follows knows these only.
        assert context.keys() <= {"runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile",
                                  "allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities", "sysctls"}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"} and context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        user = f"{context['runAsUser']}:{context.get('runAsGroup', 0)}"
        name = f"{self.name}-{container['name']}-{len(self.started)}"
        command = [
            "podman", "run", "--rm", "--pod", self.name, "--name", name, "--user", user, "--group-add", str(context["fsGroup"]),
            "--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--log-driver=none",
            "--pidfile", str(self.folder / f"{name}.pid"), f"--volume={self.hosts}:/etc/hosts:ro",
            *[f"--volume={volumes[mount['name']]}:{mount['mountPath']}:ro" for mount in container.get("volumeMounts", [])],
            *extra, image or self.image, *[str(argument) for argument in arguments or container["args"]],
        ]
        with (self.folder / f"{name}.log").open("w") as log:
            running = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        running.name, running.log, running.pidfile = name, self.folder / f"{name}.log", self.folder / f"{name}.pid"
        self.started.append(running)
        return running

    def asked(self, path):
        """The status that a probe of kubelet's gets."""
        url = f"http://127.0.0.1:9105{path}"
        command = [*self.inside, "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", url]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout

    def wait(self):
        with contextlib.ExitStack() as waited:
            for running in self.started:
                waited.callback(gateway.wait, running)

    def end(self):
        self.made.close()


@pytest.fixture
def make_pod(tmp_path, image, environment):
    """Makes pods that end with the test."""
    tmp_path.chmod(0o755)
    numbers = itertools.count()
    with contextlib.ExitStack() as made:

        def make(**how):
            folder = tmp_path / str(next(numbers))
            folder.mkdir()
            pod = Pod(folder, image, environment, **how)
            made.callback(pod.end)
            return pod

        yield make


@pytest.fixture
def pod(make_pod):
    return make_pod()


def start_sidecar(pod, *extra, backend=None, **values):
    """The sidecar, once its startup probe succeeds: from then on kubelet starts the application."""
    spec, config_maps, secrets = pod.render(backend, **values)
    volumes = pod.volumes(spec, config_maps, secrets)
    [described] = spec["initContainers"]
    assert described["restartPolicy"] == "Always"
    sidecar = pod.start(described, spec, volumes, *extra)
    probe = described["startupProbe"]["httpGet"]
    gateway.wait_for(lambda: pod.asked(probe["path"]) == "200" or sidecar.poll() is not None, "the sidecar")
    assert sidecar.poll() is None, sidecar.log.read_text()
    for other in ("livenessProbe", "readinessProbe"):
        assert pod.asked(described[other]["httpGet"]["path"]) == "200"
    assert images.confinement(sidecar.pidfile.read_text().strip()) == images.confined(65532)
    return sidecar, spec, volumes


def stop(pod, running):
    pod.podman("kill", "--signal=TERM", running.name)


def test_an_application_transfers_files_over_its_own_loopback(pod):
    sidecar, spec, volumes = start_sidecar(pod)
    [application] = spec["containers"]
    trusted = [f"--volume={pod.folder}/certificate/authority.crt:/authority.crt:ro", "--env=FTPS2SFTP_PASSWORD=secret"]
    for url in ("ftpes://uploader@127.0.0.1:2121/", "ftps://uploader@127.0.0.1:2990/"):
        client = pod.start(
            application, spec, volumes, *trusted, arguments=["probe", "--ca", "/authority.crt", "--size", "3000000", url]
        )
        assert client.wait(gateway.WAIT) == 0, client.log.read_text() + sidecar.log.read_text()
    # As kubelet ends a pod: the application is gone already.
    stop(pod, sidecar)
    assert sidecar.wait(gateway.WAIT) == 0, sidecar.log.read_text()
    # It stored, read, compared and deleted.
    assert sidecar.log.read_text().count('"transfer complete"') >= 4
    assert list(pod.sshd.files.iterdir()) == []


def test_a_running_transfer_outlives_the_end_of_its_pod(pod):
    # The transfer takes less than half of it.
    sidecar, spec, volumes = start_sidecar(pod, drainSeconds=30)
    [application] = spec["containers"]
    sent = pod.folder / "sent"
    sent.write_bytes(os.urandom(24_000_000))
    # The image has one program; curl and its libraries are those of this machine.
    extra = ["--entrypoint=/usr/bin/curl", *[f"--volume={folder}:{folder}:ro" for folder in ("/usr", "/lib", "/lib64")],
             f"--volume={sent}:/sent:ro", f"--volume={pod.folder}/certificate/authority.crt:/authority.crt:ro"]
    started = time.monotonic()
    client = pod.start(application, spec, volumes, *extra, arguments=[
        "--silent", "--show-error", "--ssl-reqd", "--cacert", "/authority.crt", "--user", "uploader:secret",
        "--limit-rate", "2M", "--upload-file", "/sent", "ftp://127.0.0.1:2121/sent",
    ])
    metric = [*pod.inside, "curl", "--silent", "http://127.0.0.1:9105/metrics"]
    running = 'ftps2sftp_transfers_active{direction="upload"} 1'
    gateway.wait_for(
        lambda: running in subprocess.run(metric, check=False, capture_output=True, text=True).stdout
        or client.poll() is not None, "the transfer",
    )
    assert client.poll() is None, client.log.read_text()
    assert images.confinement(client.pidfile.read_text().strip()) == images.confined(APPLICATION_USER)

    stop(pod, sidecar)
    gateway.wait_for(lambda: pod.asked("/readyz") == "503", "the sidecar's word that it drains")
    # It says so before it closes its ports. From then on nobody new comes in, and the file is still on its way.
    late = [*pod.inside, "curl", "--silent", "--max-time", "5", "ftp://127.0.0.1:2121/"]
    gateway.wait_for(lambda: subprocess.run(late, check=False, capture_output=True).returncode == 7, "a port that refuses")
    assert client.poll() is None and sidecar.poll() is None and not (pod.sshd.files / "sent").exists()

    assert client.wait(gateway.WAIT) == 0, client.log.read_text() + sidecar.log.read_text()
    assert time.monotonic() - started > 8
    assert (pod.sshd.files / "sent").read_bytes() == sent.read_bytes()
    assert sidecar.wait(gateway.WAIT) == 0, sidecar.log.read_text()


def test_low_ports_take_the_setting_that_the_chart_makes_and_no_capability(make_pod):
    values = yaml.safe_load((CHART / "ci/low-ports-values.yaml").read_text(encoding="utf-8"))
    objects = helmtool.render(CHART, values)
    [made] = [made for made in objects if made["kind"] == "StatefulSet"]
    [config] = [made for made in objects if made["kind"] == "ConfigMap"]
    spec = made["spec"]["template"]["spec"]
    [container] = spec["containers"]

    def started(pod):
        secret = {name: (pod.folder / "certificate" / name).read_text() for name in ("tls.crt", "tls.key")}
        volumes = pod.volumes(spec, {config["metadata"]["name"]: config["data"]}, {"ftps-tls": secret})
        running = pod.start(container, spec, volumes)
        gateway.wait_for(lambda: running.poll() is not None or pod.asked("/startz") == "200", "the gateway")
        return running

    pod = make_pod(sysctls=spec["securityContext"]["sysctls"])
    running = started(pod)
    assert running.poll() is None, running.log.read_text()
    assert images.confinement(running.pidfile.read_text().strip()) == images.confined(65532)
    for url in ("ftpes://localhost:21", "ftps://localhost:990"):
        # As the chart's own test does it.
        gateway.run(*pod.inside, gateway.binary(), "probe", "--tls-only", "--insecure", url)
    # The same pod without the setting.
    refused = started(make_pod())
    assert refused.poll() not in (None, 0) and "ermission denied" in refused.log.read_text(), refused.log.read_text()


class NameServer:
    """dnsmasq in a pod's network, as a cluster's name server: one name, whose address can change."""

    def __init__(self, pod, name, address):
        self.name, self.names, self.log = name, pod.folder / "names", pod.folder / "dnsmasq.log"
        self.names.write_text(f"{address} {name}\n", encoding="utf-8")
        with contextlib.ExitStack() as begun:
            self.process = subprocess.Popen([
                *pod.inside, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=",
                "--no-resolv", "--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces", "--local=/cluster.local/",
                f"--addn-hosts={self.names}", "--log-queries", f"--log-facility={self.log}",
            ])
            begun.callback(self.end)
            self.wait_until_read(1)
            begun.pop_all()

    def wait_until_read(self, times):
        def is_read():
            return self.log.exists() and self.log.read_text().count(f"read {self.names}") >= times

        gateway.wait_for(lambda: is_read() or self.process.poll() is not None, "dnsmasq")
        assert self.process.poll() is None

    def move(self, address):
        self.names.write_text(f"{address} {self.name}\n", encoding="utf-8")
        self.process.send_signal(signal.SIGHUP)
        self.wait_until_read(2)

    def end(self):
        gateway.stop(self.process)


def test_a_backend_is_found_by_the_clusters_search_list_and_followed_when_it_moves(pod):
    (pod.folder / "other").mkdir()
    other = gateway.Sshd(pod.folder / "other", "127.0.0.2", 22, pod.inside)
    (other.folder / "authorized_keys").write_bytes((pod.sshd.folder / "authorized_keys").read_bytes())
    # What kubelet writes for a pod of the namespace `files`. The name of a Service in the namespace `sftp` has fewer dots
    # than five, and so is looked for below each of these first.
    resolver = pod.folder / "resolv.conf"
    resolver.write_text(
        "search files.svc.cluster.local svc.cluster.local cluster.local\nnameserver 127.0.0.1\noptions ndots:5\n",
        encoding="utf-8",
    )
    with contextlib.ExitStack() as begun:
        name_server = NameServer(pod, "warehouse.sftp.svc.cluster.local", "127.0.0.1")
        begun.callback(name_server.end)
        other.start()
        begun.callback(other.stop)
        sidecar, *_ = start_sidecar(
            pod, f"--volume={resolver}:/etc/resolv.conf:ro",
            backend={"address": "warehouse.sftp:22", "host_keys": [pod.sshd.fingerprint, other.fingerprint]},
        )
        sent = pod.folder / "sent"
        sent.write_text("found", encoding="utf-8")

        def logins_after_a_transfer(name):
            done = subprocess.run(
                [*pod.inside, "curl", "--silent", "--show-error", "--ssl-reqd",
                 "--cacert", pod.folder / "certificate/authority.crt", "--user", "uploader:secret",
                 "--upload-file", sent, f"ftp://localhost:2121/{name}"],
                check=False, capture_output=True, text=True,
            )
            assert done.returncode == 0, done.stderr + sidecar.log.read_text() + name_server.log.read_text()
            assert (pod.sshd.files / name).read_text() == "found"
            return [(one.folder / "sshd.log").read_text().count("Accepted publickey") for one in (pod.sshd, other)]

        assert logins_after_a_transfer("first") == [1, 0]
        said = name_server.log.read_text()
        assert "warehouse.sftp.files.svc.cluster.local is NXDOMAIN" in said, said
        assert "warehouse.sftp.svc.cluster.local is 127.0.0.1" in said, said
        name_server.move("127.0.0.2")
        assert logins_after_a_transfer("second") == [1, 1]
