"""The image: what is in it, and that it carries files with a read-only root and no capabilities."""

import hashlib
import os
import subprocess
from pathlib import Path

import gateway
import images

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1024 * 1024


def test_the_same_program_gives_the_same_digest(image, environment, tmp_path):
    images.build("localhost/ftps2sftp:again", environment)
    first = images.archive(image, environment, tmp_path / "first.tar")
    again = images.archive("localhost/ftps2sftp:again", environment, tmp_path / "again.tar")
    assert first.startswith("sha256:") and first == again


def test_the_image_says_what_it_is(image, environment):
    about = images.inspect(image, environment)
    version = gateway.run(images.static_binary(), "--version").stdout.split()[1]
    revision = gateway.run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    assert about["Config"]["User"] == "65532:65532"
    assert about["Config"]["Labels"]["org.opencontainers.image.version"] == version
    assert about["Config"]["Labels"]["org.opencontainers.image.revision"] == revision
    assert about["Config"]["Labels"]["org.opencontainers.image.licenses"] == "MIT OR Apache-2.0"
    assert about["Config"]["Cmd"] == ["run", "--config", "/etc/ftps2sftp/config.yaml"]


def test_nothing_but_the_program_is_in_it(image, environment, tmp_path):
    container = gateway.run("buildah", "from", image, env=environment).stdout.strip()
    try:
        mounted = Path(gateway.run("buildah", "mount", container, env=environment).stdout.strip())
        files = {str(path.relative_to(mounted)): path for path in mounted.rglob("*") if path.is_file()}
        assert files.keys() == {"ftps2sftp", "etc/passwd", "etc/group"}
        assert not any(path.stat().st_mode & 0o7022 for path in files.values())
    finally:
        gateway.run("buildah", "rm", container, env=environment)


def test_a_program_that_is_not_static_is_refused(environment):
    refused = subprocess.run(
        [ROOT / "deploy/image", images.NAME, "/bin/true"], env=environment, check=False, capture_output=True, text=True
    )
    assert refused.returncode == 1 and "/bin/true is not static" in refused.stderr


def test_the_containerfile_is_written_well():
    gateway.run("hadolint", ROOT / "deploy/Containerfile")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_container_carries_files_both_ways_and_ends_in_order(image, environment, tmp_path, request):
    tls = tmp_path / "tls"
    gateway.certificate(tls)
    (tmp_path / "ssh").mkdir()
    sshd = gateway.Sshd(tmp_path / "ssh")
    sshd.start()
    request.addfinalizer(sshd.stop)
    explicit, admin = gateway.free_ports(2)
    passive = gateway.free_ports(1)[0]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    # As Kubernetes gives it: not the process's own, and readable for its group.
    (secrets / "login_key").write_bytes((tmp_path / "ssh/login_key").read_bytes())
    (secrets / "login_key").chmod(0o440)
    os.chown(secrets / "login_key", 0, 65532)
    own = tmp_path / "config"
    own.mkdir()
    text = gateway.configuration(sshd, "/tls", "/secrets/login_key", (explicit, admin), (passive, passive))
    (own / "config.yaml").write_text(text, encoding="utf-8")
    for folder in (tmp_path, tls, own, secrets):
        folder.chmod(0o755)

    log = (tmp_path / "container.log").open("w")
    container = subprocess.Popen(
        ["podman", "run", "--rm", "--name", "ftps2sftp-test", "--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL",
         "--security-opt=no-new-privileges", "--network=host", "--log-driver=none", "--pidfile", str(tmp_path / "pid"),
         "--volume", f"{own}:/etc/ftps2sftp:ro", "--volume", f"{tls}:/tls:ro", "--volume", f"{secrets}:/secrets:ro", image],
        env=environment, stdout=log, stderr=log,
    )
    try:
        started = gateway.wait_for(
            lambda: gateway.get(f"http://127.0.0.1:{admin}/startz")[0] == 200 or container.poll() is not None, "the container"
        )
        assert started and container.poll() is None, (tmp_path / "container.log").read_text()
        assert gateway.get(f"http://127.0.0.1:{admin}/readyz")[0] == 200

        process = (tmp_path / "pid").read_text().strip()
        assert images.confinement(process) == images.confined(65532)

        sent, fetched = tmp_path / "sent", tmp_path / "fetched"
        sent.write_bytes(os.urandom(MEBIBYTE) * 100)
        url = f"ftp://localhost:{explicit}/hundred"
        up = gateway.curl(tls, "--upload-file", sent, url)
        assert up.returncode == 0, up.stderr
        assert digest(sshd.files / "hundred") == digest(sent)
        down = gateway.curl(tls, "--output", fetched, url)
        assert down.returncode == 0, down.stderr
        assert digest(fetched) == digest(sent)

        gateway.run("podman", "kill", "--signal", "TERM", "ftps2sftp-test", env=environment)
        assert container.wait(gateway.WAIT) == 0, (tmp_path / "container.log").read_text()
        assert not gateway.is_open(explicit)
    finally:
        if container.poll() is None:
            gateway.run("podman", "kill", "ftps2sftp-test", env=environment)
            container.wait(gateway.WAIT)
