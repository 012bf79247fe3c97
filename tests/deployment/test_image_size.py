"""How large the image of the release program is. Any other program in it would be another size: only with that one."""

import tarfile

import images

MEGABYTE = 1_000_000


def test_the_image_is_small(image, environment):
    assert images.inspect(image, environment)["Size"] < 15 * MEGABYTE


def test_the_archive_is_smaller_still(image, environment, tmp_path):
    images.archive(image, environment, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as opened:
        assert sum(member.size for member in opened.getmembers()) < 10 * MEGABYTE
