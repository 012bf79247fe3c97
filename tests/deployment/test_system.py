"""The systemd units and the Debian package."""

import os
import re
import subprocess
from pathlib import Path

import gateway
import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy/systemd"
# Of ten, where ten is a process that may do everything. One step more than what the unit has.
EXPOSURE = "17"


def said_by(*command, **how):
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, **how)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def unpacked(package, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    gateway.run("dpkg-deb", "--raw-extract", package, folder)
    return folder


def test_systemd_understands_the_units_and_finds_their_manual(unpacked, tmp_path):
    units = []
    for unit in ("ftps2sftp.service", "ftps2sftp.socket"):
        text = (unpacked / "lib/systemd/system" / unit).read_text(encoding="utf-8")
        (tmp_path / unit).write_text(text.replace("/usr/bin/ftps2sftp", f"{unpacked}/usr/bin/ftps2sftp"), encoding="utf-8")
        units.append(tmp_path / unit)

    def verified(pages):
        return said_by("systemd-analyze", "verify", *units, env=os.environ | {"MANPATH": str(pages)})

    code, said = verified(unpacked / "usr/share/man")
    # It also tells of other units of the machine, and a misspelt key does not change how it ends.
    assert code == 0 and "ftps2sftp" not in said, said
    code, said = verified(tmp_path)
    assert code != 0 and "man ftps2sftp(1)" in said, said


def test_a_misspelt_key_of_a_unit_is_found(tmp_path):
    text = (UNITS / "ftps2sftp.service").read_text(encoding="utf-8").replace("/usr/bin/ftps2sftp", "/bin/true")
    (tmp_path / "ftps2sftp.service").write_text(text.replace("ProtectClock", "ProtectClok"), encoding="utf-8")
    _, said = said_by("systemd-analyze", "verify", "--man=no", tmp_path / "ftps2sftp.service")
    assert "ProtectClok" in said and "ftps2sftp.service" in said


def test_the_service_may_do_little():
    code, said = said_by(
        "systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", UNITS / "ftps2sftp.service"
    )
    assert code == 0, said


def test_the_service_has_time_to_drain():
    unit = (UNITS / "ftps2sftp.service").read_text(encoding="utf-8")
    example = (ROOT / "deploy/config.example.yaml").read_text(encoding="utf-8")
    minutes = int(re.search(r"TimeoutStopSec=(\d+)min", unit).group(1))
    assert "delay: 0s" in example and "drain: 5m" in example
    assert minutes > 5


def test_a_configuration_that_is_refused_is_not_tried_again_and_again(tmp_path):
    unit = (UNITS / "ftps2sftp.service").read_text(encoding="utf-8")
    (tmp_path / "config.yaml").write_text("backends: {}\n", encoding="utf-8")
    code, said = said_by(gateway.binary(), "run", "--config", tmp_path / "config.yaml", timeout=60)
    assert f"RestartPreventExitStatus={code}\n" in unit, said


def test_the_user_is_one_that_sysusers_makes(tmp_path):
    (tmp_path / "etc").mkdir()
    gateway.run("systemd-sysusers", f"--root={tmp_path}", UNITS / "ftps2sftp.sysusers")
    [line] = (tmp_path / "etc/passwd").read_text(encoding="utf-8").splitlines()
    name, _, number, _, _, home, shell = line.split(":")
    assert name == "ftps2sftp" and 0 < int(number) < 1000
    assert (home, shell) == ("/", "/usr/sbin/nologin")
    assert "User=ftps2sftp\n" in (UNITS / "ftps2sftp.service").read_text(encoding="utf-8")


def test_lintian_finds_nothing(package):
    code, said = said_by("lintian", "--fail-on", "error,warning", "--allow-root", package)
    assert code == 0 and said == "", said


def commands(unpacked):
    """The commands that the packaged program tells people of, by its own help."""
    listed = gateway.run(unpacked / "usr/bin/ftps2sftp", "--help").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    found = set(re.findall(r"^  ([a-z-]+) ", listed, re.MULTILINE)) - {"help"}
    assert {"run", "check"} <= found, listed
    return found


def test_there_is_a_manual_page_for_every_command(unpacked):
    pages = unpacked / "usr/share/man"
    expected = {"ftps2sftp.1.gz"} | {f"ftps2sftp-{command}.1.gz" for command in commands(unpacked)}
    assert {page.name for page in (pages / "man1").iterdir()} == expected
    for page in (pages / "man1").iterdir():
        # A gzip that tells when it was made would give another package each time.
        assert page.read_bytes()[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00", page
        # Through the formatter, which tells of every macro that it does not know.
        shown = subprocess.run(
            ["man", "--warnings", "--encoding=UTF-8", page], check=False, capture_output=True, text=True,
            env=os.environ | {"MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
        )
        assert (shown.returncode, shown.stderr) == (0, ""), page
        assert re.search(r"^NAME$", shown.stdout, re.MULTILINE), page
    shown = gateway.run("man", pages / "man1/ftps2sftp-check.1.gz").stdout
    assert "Check a configuration: files, certificates, and every backend" in " ".join(shown.split())


def test_shells_complete_commands_and_options(unpacked):
    share = unpacked / "usr/share"
    bash = share / "bash-completion/completions/ftps2sftp"
    gateway.run("bash", "-n", bash)
    # What bash itself does at a tab, for `ftps2sftp ch` and `ftps2sftp check --con`.
    ask = """
        source "$1"; shift
        complete -p ftps2sftp >/dev/null
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _ftps2sftp ftps2sftp "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    """
    for words, expected in ((["ch"], {"check"}), (["check", "--con"], {"--config"})):
        answered = gateway.run("bash", "-ec", ask, "bash", bash, "ftps2sftp", *words).stdout
        assert set(answered.split()) == expected

    zsh = share / "zsh/vendor-completions/_ftps2sftp"
    gateway.run("zsh", "-f", "-n", zsh)
    assert zsh.read_text(encoding="utf-8").startswith("#compdef ftps2sftp\n")

    fish = share / "fish/vendor_completions.d/ftps2sftp.fish"
    gateway.run("fish", "--no-config", "--no-execute", fish)
    for line, expected in (("ftps2sftp ch", {"check"}), ("ftps2sftp check --con", {"--config"})):
        answered = gateway.run("fish", "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"', fish, line).stdout
        assert {answer.split("\t")[0] for answer in answered.splitlines()} == expected


def test_the_same_binary_gives_the_same_package(package, packager, tmp_path):
    gateway.run(ROOT / "deploy/debian/build", gateway.binary(), tmp_path, env=packager)
    assert (tmp_path / package.name).read_bytes() == package.read_bytes()


def test_the_packaged_program_runs(unpacked):
    version = gateway.run(unpacked / "usr/bin/ftps2sftp", "--version").stdout
    control = (unpacked / "DEBIAN/control").read_text(encoding="utf-8")
    assert version.split()[1] == re.search(r"^Version: (.*)$", control, re.MULTILINE).group(1)


def test_the_shipped_program_says_that_it_makes_no_traces(tmp_path):
    gateway.certificate(tmp_path)
    # It is never started: what the backend says is not the question.
    sshd = gateway.Sshd(tmp_path / "ssh")
    text = gateway.configuration(sshd, tmp_path, tmp_path / "ssh/login_key", gateway.free_ports(2), (30000, 30000))
    valid = re.compile(r"^configuration +ok .* is valid$", re.MULTILINE)

    def checked(more):
        (tmp_path / "config.yaml").write_text(text + more, encoding="utf-8")
        return said_by(gateway.binary(), "check", "--config", tmp_path / "config.yaml", timeout=60)

    _, said = checked("traces: {endpoint: null}\n")
    assert valid.search(said), said
    code, said = checked('traces: {endpoint: "http://127.0.0.1:4318"}\n')
    assert code != 0 and not valid.search(said), said
    assert "traces.endpoint" in said and "asks for traces, which were not built in" in said, said
    assert "`--features otlp`" in said, said


def test_scripts_of_the_package_are_shell(unpacked):
    scripts = [unpacked / "DEBIAN" / name for name in ("postinst", "prerm", "postrm")]
    gateway.run("shellcheck", *scripts)
