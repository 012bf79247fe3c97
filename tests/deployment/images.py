"""The image that is tested: the static program in it, what it says of itself, and it as a file."""

import json
import os
from pathlib import Path

import gateway

ROOT = Path(__file__).parents[2]
NAME = "localhost/ftps2sftp:test"


def static_binary():
    """The static program that tests/deployment/run has built."""
    return Path(os.environ["FTPS2SFTP_STATIC_BINARY"])


def build(name, environment):
    gateway.run(ROOT / "deploy/image", name, static_binary(), env=environment)


def inspect(image, environment):
    return json.loads(gateway.run("podman", "image", "inspect", image, env=environment).stdout)[0]


def archive(image, environment, target):
    """The image as a file, and its digest."""
    gateway.run("buildah", "push", "--quiet", image, f"oci-archive:{target}:test", env=environment)
    return gateway.run("skopeo", "inspect", "--format", "{{.Digest}}", f"oci-archive:{target}:test").stdout.strip()


def confinement(process):
    """What a process of a container may do: its user, its capabilities, whether it may gain any, its filter, its root."""
    folder = Path("/proc") / str(process)
    status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
    root = next(line for line in (folder / "mountinfo").read_text().splitlines() if line.split()[4] == "/")
    return {
        "users": set(status["Uid"].split()),
        "capabilities": {int(status[key], 16) for key in ("CapEff", "CapPrm", "CapBnd", "CapAmb")},
        "no new privileges": status["NoNewPrivs"],
        # 2: by a filter.
        "seccomp": status["Seccomp"],
        "read-only": "ro" in root.split()[5].split(","),
    }


def confined(user):
    """What `confinement` is to be for a user, everywhere."""
    return {"users": {str(user)}, "capabilities": {0}, "no new privileges": "1", "seccomp": "2", "read-only": True}
