"""The real gateway in front of a real sshd, for tests: certificates, keys, configuration, processes."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

WAIT = 30


def binary():
    """The gateway that is tested, as tests/deployment/run names it."""
    return Path(os.environ["FTPS2SFTP_BINARY"])


def run(*command, **how):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **how)


def wait_for(condition, what, seconds=WAIT):
    """The first true answer of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds} s")


def free_ports(count):
    """Ports of 127.0.0.1 on which nobody listens."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def certificate(folder, names=("DNS:localhost", "IP:127.0.0.1")):
    """tls.crt and tls.key for localhost, or for other names, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
        "-subj", "/CN=localhost", "-addext", f"subjectAltName={','.join(names)}",
        "-keyout", folder / "tls.key", "-out", folder / "tls.crt")
    (folder / "tls.key").chmod(0o644)


def signed_certificate(folder, names=("DNS:localhost", "IP:127.0.0.1")):
    """As `certificate`, but signed by an authority, authority.crt: some clients believe no server that is its own."""
    certificate(folder, names)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
        "-subj", "/CN=authority", "-keyout", folder / "authority.key", "-out", folder / "authority.crt")
    run("openssl", "x509", "-x509toreq", "-in", folder / "tls.crt", "-key", folder / "tls.key", "-copy_extensions", "none",
        "-out", folder / "tls.csr")
    (folder / "extensions").write_text(f"basicConstraints=CA:FALSE\nsubjectAltName={','.join(names)}\n", encoding="utf-8")
    run("openssl", "x509", "-req", "-in", folder / "tls.csr", "-CA", folder / "authority.crt", "-CAkey", folder / "authority.key",
        "-days", "30", "-extfile", folder / "extensions", "-out", folder / "tls.crt")


def ssh_key(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    path.chmod(0o600)


def wait(process):
    """How a process ended that is about to. One that does not is killed, and the test fails."""
    try:
        return process.wait(WAIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def stop(process, number=signal.SIGTERM):
    """Ends a process that a test began, and tells how it ended."""
    if process.poll() is None:
        process.send_signal(number)
    return wait(process)


class Sshd:
    """An OpenSSH server that lets root in with one key, to SFTP alone: on 127.0.0.1, or inside what a command enters."""

    def __init__(self, folder, address="127.0.0.1", port=None, inside=()):
        self.folder = folder
        self.address = address
        self.port = port or free_ports(1)[0]
        self.inside = list(inside)
        ssh_key(folder / "host_key")
        ssh_key(folder / "login_key")
        self.files = folder / "files"
        self.files.mkdir()
        shutil.copy(folder / "login_key.pub", folder / "authorized_keys")
        # Where sshd goes to be without files; the package makes it when a service manager runs.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        (folder / "sshd_config").write_text(
            f"ListenAddress {address}:{self.port}\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPermitRootLogin yes\nPasswordAuthentication no\n"
            "Subsystem sftp internal-sftp\n",
            encoding="utf-8",
        )
        self.fingerprint = run("ssh-keygen", "-lf", folder / "host_key.pub").stdout.split()[1]
        self.process = None

    def start(self):
        with contextlib.ExitStack() as begun:
            with (self.folder / "sshd.log").open("w") as log:
                self.process = subprocess.Popen(
                    [*self.inside, "/usr/sbin/sshd", "-D", "-e", "-f", self.folder / "sshd_config"], stderr=log
                )
            begun.callback(self.stop)
            listens = f"Server listening on {self.address} port {self.port}."
            wait_for(lambda: listens in (self.folder / "sshd.log").read_text(), "sshd")
            begun.pop_all()

    def stop(self):
        stop(self.process)


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def configuration(sshd, tls, key, ports, passive, root=None):
    """One explicit listener, one user `acme` with the password `secret`, one backend."""
    explicit, admin = ports
    hashed = run("openssl", "passwd", "-6", "secret").stdout.strip()
    return f"""
listeners: [{{name: explicit, address: "127.0.0.1:{explicit}", tls: explicit}}]
tls: {{certificates: [{{certificate: {tls}/tls.crt, key: {tls}/tls.key}}]}}
passive: {{ports: {passive[0]}-{passive[1]}}}
backends: {{warehouse: {{address: "127.0.0.1:{sshd.port}", host_keys: ["{sshd.fingerprint}"]}}}}
users:
  acme:
    password_hash: "{hashed}"
    backend: warehouse
    login: {{user: root, private_key: {key}}}
    root: {root or sshd.files}
admin: {{address: "127.0.0.1:{admin}"}}
log: {{format: json}}
"""


def get(url):
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def curl(tls, *arguments, **how):
    """curl with explicit TLS that trusts the certificate of the test."""
    return subprocess.run(
        ["curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", str(tls / "tls.crt"), "--user", "acme:secret",
         *[str(argument) for argument in arguments]],
        check=False, capture_output=True, text=True, timeout=120, **how,
    )


def placed(text, files, folder):
    """A configuration whose files are those of a container, with them put below a folder."""
    for path, content in files.items():
        target = folder / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
        target.chmod(0o600)
    return re.sub(r"(?<![\w/])/(tls|client-ca|etc/ftps2sftp|secrets)/", rf"{folder}/\1/", text)


def environment_of(container, pod):
    """The environment that a container's description gives it in the pod of a name."""
    given = {entry["name"]: entry.get("value", pod) for entry in container.get("env", [])}
    return {name: value.replace("$(POD_NAME)", pod) for name, value in given.items()}


def check_configuration(text, files, folder, environment):
    """What `ftps2sftp check` says of a configuration whose files are those of a container, put below a folder.

    Backends are looked for where nothing listens: what they answer is not the question here.
    """
    text = re.sub(r"[\w-]+\.internal(:\d+)?", "127.0.0.1:1", placed(text, files, folder))
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    checked = subprocess.run(
        [binary(), "check", "--config", file], check=False, capture_output=True, text=True, env=environment, timeout=60
    )
    return checked.stdout + checked.stderr
