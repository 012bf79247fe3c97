"""What several files of tests share, because it takes long to make: the Debian package, and the image."""

import contextlib
import os
import shutil
from pathlib import Path

import gateway
import images
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


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Images in a folder of the test, and limits that this machine grants."""
    folder = tmp_path_factory.mktemp("containers")
    storage = folder / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n', encoding="utf-8"
    )
    made = os.environ | {
        "CONTAINERS_STORAGE_CONF": str(storage),
        "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf")),
    }
    with contextlib.ExitStack() as undone:
        # pytest keeps the folders of three runs, and this driver has every layer whole.
        undone.callback(shutil.rmtree, folder)
        undone.callback(gateway.run, "podman", "rmi", "--all", "--force", env=made)
        yield made


@pytest.fixture(scope="session")
def image(environment):
    images.build(images.NAME, environment)
    return images.NAME
