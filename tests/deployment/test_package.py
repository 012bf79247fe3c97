"""The Debian package, installed by dpkg: what it makes, that its program serves, and what a removal leaves.

dpkg works on a throw-away root: this machine's own file system, whose changes are kept in memory and seen by nobody else.
"""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

import gateway
import pytest

ROOT = Path(__file__).parents[2]

# Mounts are private to this process, and processes of the root end with it. All that is written goes to memory.
HOLD = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/changes" "$1/work" "$1/merged"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" "$1/merged"
mount -t proc proc "$1/merged/proc"
mount --rbind /dev "$1/merged/dev"
# dpkg would have all manual pages of this machine listed anew each time.
rm -f "$1/merged/var/lib/man-db/auto-update"
touch "$1/ready"
exec sleep infinity
"""


def children_of(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def end_entered(running):
    """Ends what a command of a root has started, and tells how it ended.

    `nsenter` passes no signal on; its only child has become the program. Should either stay, both end with the root.
    """
    if running.poll() is None:
        for child in children_of(running.pid):
            os.kill(child, signal.SIGTERM)
    return gateway.wait(running)


class Root:
    """A root of its own, and commands in it."""

    def __init__(self, folder):
        folder.mkdir()
        with contextlib.ExitStack() as made:
            self.holder = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child",
                 "sh", "-c", HOLD, "sh", str(folder)], stderr=subprocess.PIPE, text=True,
            )
            made.callback(self.end)
            gateway.wait_for(
                lambda: self.holder.poll() is not None or children_of(self.holder.pid), "the first process of the root"
            )
            assert self.holder.poll() is None, self.holder.stderr.read()
            [first] = children_of(self.holder.pid)
            self.inside = ["nsenter", f"--target={first}", "--mount", "--pid"]
            ready = f"/proc/{first}/root{folder}/ready"
            gateway.wait_for(lambda: self.holder.poll() is not None or Path(ready).exists(), "the root")
            assert self.holder.poll() is None, self.holder.stderr.read()
            made.pop_all()
        self.path = f"{folder}/merged"
        # The same files as this process reaches them.
        self.files = Path(f"/proc/{first}/root{folder}/merged")

    def command(self, *command, user=None):
        """A command line that is run in the root."""
        who = [f"--userspec={user}", "--groups="] if user else []
        return [*self.inside, "chroot", *who, self.path, *[str(part) for part in command]]

    def run(self, *command, user=None):
        done = subprocess.run(self.command(*command, user=user), check=False, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def do(self, *command, user=None):
        """What a command says that must not fail."""
        code, said = self.run(*command, user=user)
        assert code == 0, said
        return said

    def has(self, path):
        return (self.files / path.lstrip("/")).is_symlink() or (self.files / path.lstrip("/")).exists()

    def owned(self, path):
        """Mode, user and group of a file, by the names that the root has for them."""
        return self.do("stat", "--format=%a %U %G", path).strip()

    def put(self, path, content, mode="640"):
        target = self.files / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
        self.do("chown", "root:ftps2sftp", path)
        self.do("chmod", mode, path)

    def end(self):
        # SIGTERM it leaves to its child, the first process of the root, to which signals of its own are nothing. The
        # child ends with it, and with the child whatever runs in the root.
        with self.holder.stderr:
            self.holder.kill()
            self.holder.wait(gateway.WAIT)


@pytest.fixture
def root(tmp_path):
    made = Root(tmp_path / "throw-away")
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def installed(root, package):
    (root.files / "tmp" / package.name).write_bytes(package.read_bytes())
    assert not root.has("/usr/bin/ftps2sftp"), "the package is installed on this machine already"
    root.do("dpkg", "--install", f"/tmp/{package.name}")
    root.package = f"/tmp/{package.name}"
    return root


def test_an_installation_makes_a_user_and_a_folder_and_starts_nothing(installed, package):
    assert installed.do("dpkg-query", "--show", "--showformat=${Status}", "ftps2sftp") == "install ok installed"
    # Whether files came as they were packed.
    assert installed.do("dpkg", "--verify", "ftps2sftp") == ""
    name, _, number, _, _, home, shell = installed.do("getent", "passwd", "ftps2sftp").strip().split(":")
    assert (name, home, shell) == ("ftps2sftp", "/", "/usr/sbin/nologin") and 0 < int(number) < 1000
    assert installed.do("passwd", "--status", "ftps2sftp").split()[1] == "L"

    assert installed.owned("/etc/ftps2sftp") == "750 root ftps2sftp"
    assert list((installed.files / "etc/ftps2sftp").iterdir()) == []
    assert installed.owned("/usr/bin/ftps2sftp") == "755 root root"
    for unit in ("ftps2sftp.service", "ftps2sftp.socket"):
        assert installed.owned(f"/lib/systemd/system/{unit}") == "644 root root"
        assert installed.run("systemctl", "is-enabled", unit) == (1, "disabled\n")
    assert "ftps2sftp" in installed.do("man", "--where", "ftps2sftp-check")

    version = package.name.split("_")[1]
    assert installed.do("ftps2sftp", "--version", user="ftps2sftp").split()[1] == version

    # All of this was in the throw-away root.
    assert subprocess.run(["dpkg-query", "--show", "ftps2sftp"], check=False, capture_output=True).returncode != 0
    assert not Path("/etc/ftps2sftp").exists() and not Path("/usr/bin/ftps2sftp").exists()


def test_the_service_user_may_use_the_example_and_nobody_else_reads_it(installed, tmp_path):
    installed.do("cp", "/usr/share/doc/ftps2sftp/examples/config.yaml", "/etc/ftps2sftp/config.yaml")
    installed.do("chown", "root:ftps2sftp", "/etc/ftps2sftp/config.yaml")
    installed.do("chmod", "640", "/etc/ftps2sftp/config.yaml")
    gateway.certificate(tmp_path / "tls")
    gateway.ssh_key(tmp_path / "key")
    text = (ROOT / "deploy/config.example.yaml").read_text(encoding="utf-8")
    files = {
        "/tls/tls.crt": (tmp_path / "tls/tls.crt").read_text(),
        "/tls/tls.key": (tmp_path / "tls/tls.key").read_text(),
        "/etc/ftps2sftp/known_hosts": f"sftp.internal {(tmp_path / 'key.pub').read_text()}",
        "/run/secrets/acme/id_ed25519": (tmp_path / "key").read_text(),
    }
    for path, content in files.items():
        assert path in text
        installed.put(path, content)
    check = ("ftps2sftp", "check", "--config", "/etc/ftps2sftp/config.yaml")
    said = installed.run(*check, user="ftps2sftp")[1]
    assert re.search(r"^configuration +ok .* is valid$", said, re.MULTILINE), said
    # There is no such server here. All else is as it should be.
    failed = [line for line in said.splitlines() if " failed " in line]
    assert failed and all("sftp.internal" in line or "warehouse" in line for line in failed), said
    code, said = installed.run(*check, user="nobody")
    assert code != 0 and re.search(r"[Pp]ermission denied", said), said


def test_the_installed_program_serves_as_its_user(installed, tmp_path):
    tls = tmp_path / "tls"
    gateway.certificate(tls)
    (tmp_path / "ssh").mkdir()
    sshd = gateway.Sshd(tmp_path / "ssh")
    explicit, admin, passive = gateway.free_ports(3)
    text = gateway.configuration(
        sshd, "/etc/ftps2sftp", "/etc/ftps2sftp/login_key", (explicit, admin), (passive, passive)
    )
    installed.put("/etc/ftps2sftp/config.yaml", f"{text}audit: {{path: /var/log/ftps2sftp/audit.jsonl}}\n")
    installed.put("/etc/ftps2sftp/login_key", (tmp_path / "ssh/login_key").read_text())
    for file in ("tls.crt", "tls.key"):
        installed.put(f"/etc/ftps2sftp/{file}", (tls / file).read_text())
    # As the unit starts it.
    unit = (installed.files / "lib/systemd/system/ftps2sftp.service").read_text(encoding="utf-8")
    start, reload, umask, logs_mode = (
        re.search(rf"^{key}=(.*)$", unit, re.MULTILINE).group(1).split()
        for key in ("ExecStart", "ExecReload", "UMask", "LogsDirectoryMode")
    )
    installed.do("install", "-d", "-o", "ftps2sftp", "-g", "ftps2sftp", "-m", *logs_mode, "/var/log/ftps2sftp")
    start = ["sh", "-c", f'umask {umask[0]} && exec "$@"', "sh", *start]
    # As root.
    assert reload[0].startswith("+")
    reload[0] = reload[0].removeprefix("+")
    with contextlib.ExitStack() as begun:
        sshd.start()
        begun.callback(sshd.stop)
        with (tmp_path / "gateway.log").open("w") as log:
            running = subprocess.Popen(installed.command(*start, user="ftps2sftp"), stdout=log, stderr=log)
        begun.callback(end_entered, running)
        gateway.wait_for(
            lambda: running.poll() is not None or gateway.get(f"http://127.0.0.1:{admin}/readyz")[0] == 200, "the gateway"
        )
        assert running.poll() is None, (tmp_path / "gateway.log").read_text()
        sent = tmp_path / "sent"
        sent.write_text("installed", encoding="utf-8")
        done = gateway.curl(tls, "--upload-file", sent, f"ftp://localhost:{explicit}/came")
        assert done.returncode == 0, done.stderr
        assert (sshd.files / "came").read_text() == "installed"
        # For whoever ships the records, and nobody else.
        gateway.wait_for(lambda: installed.has("/var/log/ftps2sftp/audit.jsonl"), "audit records")
        assert installed.owned("/var/log/ftps2sftp/audit.jsonl") == "640 ftps2sftp ftps2sftp"
        assert installed.owned("/var/log/ftps2sftp") == "750 ftps2sftp ftps2sftp"

        code, said = installed.run(*reload)
        assert code == 0 and "reloaded: nothing had changed" in said, said
        installed.put("/etc/ftps2sftp/tls.key", "no key")
        code, said = installed.run(*reload)
        assert code != 0 and "tls.key" in said, said
        assert end_entered(running) == 0, (tmp_path / "gateway.log").read_text()


def test_a_newer_package_and_a_removal_leave_the_configuration(installed):
    installed.put("/etc/ftps2sftp/config.yaml", "backends: {}\n")
    installed.do("systemctl", "enable", "ftps2sftp.service", "ftps2sftp.socket")
    links = ("/etc/systemd/system/multi-user.target.wants/ftps2sftp.service",
             "/etc/systemd/system/sockets.target.wants/ftps2sftp.socket")
    assert all(installed.has(link) for link in links)
    before = installed.do("getent", "passwd", "ftps2sftp")

    installed.do("dpkg", "--install", installed.package)
    assert installed.owned("/etc/ftps2sftp/config.yaml") == "640 root ftps2sftp"
    assert all(installed.has(link) for link in links)
    assert installed.do("getent", "passwd", "ftps2sftp") == before

    packed = installed.do("dpkg", "--listfiles", "ftps2sftp").split()
    own = [path for path in packed if not (installed.files / path.lstrip("/")).is_dir()]
    assert "/usr/bin/ftps2sftp" in own and len(own) > 15
    installed.do("dpkg", "--remove", "ftps2sftp")
    assert [path for path in (*own, *links) if installed.has(path)] == []
    assert (installed.files / "etc/ftps2sftp/config.yaml").read_text() == "backends: {}\n"

    # Keys of somebody's are not the package's, and their group must not become another's.
    said = installed.do("dpkg", "--purge", "ftps2sftp")
    assert "/etc/ftps2sftp is not empty and stays" in said
    assert installed.has("/etc/ftps2sftp/config.yaml")
    assert installed.do("getent", "passwd", "ftps2sftp") == before


def test_a_service_that_does_not_start_again_keeps_no_package_from_being_installed_or_removed(installed):
    # Where systemd runs, and nothing that it is told succeeds.
    (installed.files / "run/systemd/system").mkdir(parents=True)
    told = installed.files / "tmp/told"
    installed.do("mv", "/bin/systemctl", "/bin/systemctl.real")
    installed.put("/bin/systemctl", '#!/bin/sh\necho "$*" >>/tmp/told\nexit 1\n', mode="755")

    installed.do("dpkg", "--install", installed.package)
    assert told.read_text().splitlines()[-2:] == ["--system daemon-reload", "--no-block try-restart ftps2sftp.service"]
    assert installed.do("dpkg-query", "--show", "--showformat=${Status}", "ftps2sftp") == "install ok installed"

    told.write_text("")
    said = installed.do("dpkg", "--remove", "ftps2sftp")
    assert "the service could not be stopped" in said
    assert told.read_text().splitlines()[0] == "disable --now ftps2sftp.socket ftps2sftp.service"
    assert not installed.has("/usr/bin/ftps2sftp")


def test_a_purge_leaves_a_user_that_is_at_work_and_says_so(installed):
    busy = subprocess.Popen(installed.command("sleep", "infinity", user="ftps2sftp"))
    with contextlib.ExitStack() as begun:
        begun.callback(end_entered, busy)
        number = installed.do("id", "--user", "ftps2sftp").strip()
        gateway.wait_for(lambda: installed.run("pgrep", "--uid", number)[0] == 0, "a process of the user's")
        said = installed.do("dpkg", "--purge", "ftps2sftp")
    assert "the user ftps2sftp could not be removed and stays" in said, said
    assert installed.run("dpkg-query", "--show", "ftps2sftp")[0] != 0
    assert not installed.has("/etc/ftps2sftp")
    assert installed.run("getent", "passwd", "ftps2sftp")[0] == 0


def test_a_purge_removes_what_the_package_made(installed):
    # Made by systemd for the service.
    installed.do("install", "--directory", "--owner=ftps2sftp", "/var/log/ftps2sftp")
    installed.do("touch", "/var/log/ftps2sftp/audit.jsonl")
    installed.do("dpkg", "--purge", "ftps2sftp")
    # Not even a note that it was there.
    assert installed.run("dpkg-query", "--show", "ftps2sftp")[0] != 0
    for path in ("/etc/ftps2sftp", "/var/log/ftps2sftp", "/usr/share/doc/ftps2sftp"):
        assert not installed.has(path), path
    assert installed.run("getent", "passwd", "ftps2sftp")[0] != 0
    assert installed.run("getent", "group", "ftps2sftp")[0] != 0
