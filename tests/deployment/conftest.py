"""What several files of tests share, because it takes long to make: the Debian package."""

import os
from pathlib import Path

import gateway
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def packager():
    """An environment with somebody who builds the package: lintian wants an address that can exist."""
    return os.environ | {"DEBFULLNAME": "Packager", "DEBEMAIL": "packager@packages.debian.org"}


@pytest.fixture(scope="session")
def package(tmp_path_factory, packager):
    folder = tmp_path_factory.mktemp("package")
    built = gateway.run(ROOT / "deploy/debian/build", gateway.binary(), folder, env=packager)
    return Path(built.stdout.strip())
