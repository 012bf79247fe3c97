"""Python's own FTPS client against the gateway; any difference ends it with a traceback.

    ftplib_session.py MODE VERSION PORT AUTHORITY USER PASSWORD

MODE is explicit or implicit, VERSION the TLS version (1.2 or 1.3), AUTHORITY a PEM file.
"""

import ftplib
import io
import os
import ssl
import sys


class ImplicitTls(ftplib.FTP_TLS):
    """TLS from the first byte, which ftplib leaves to its users: whatever socket it sets is wrapped at once."""

    _socket = None

    @property
    def sock(self):
        return self._socket

    @sock.setter
    def sock(self, value):
        if value is not None and not isinstance(value, ssl.SSLSocket):
            value = self.context.wrap_socket(value, server_hostname=self.host)
        self._socket = value


class Resuming:
    """Data connections that resume the TLS session of the control connection."""

    def ntransfercmd(self, cmd, rest=None):
        connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        secured = self.context.wrap_socket(connection, server_hostname=self.host, session=self.sock.session)
        assert secured.session_reused, cmd
        return secured, size


class ResumingExplicit(Resuming, ftplib.FTP_TLS):
    pass


class ResumingImplicit(Resuming, ImplicitTls):
    pass


CLASSES = {
    "explicit": (ftplib.FTP_TLS, ResumingExplicit),
    "implicit": (ImplicitTls, ResumingImplicit),
}


def refused(code, call, *arguments):
    """The call must be answered with this code."""
    try:
        answer = call(*arguments)
    except (ftplib.error_perm, ftplib.error_temp) as error:
        assert str(error).startswith(code), (code, str(error))
    else:
        raise AssertionError((code, answer))


def connected(mode, version, port, authority, resuming=False):
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = context.maximum_version = {
        "1.2": ssl.TLSVersion.TLSv1_2,
        "1.3": ssl.TLSVersion.TLSv1_3,
    }[version]
    client = CLASSES[mode][resuming](context=context, timeout=60, encoding="utf-8")
    assert client.connect("127.0.0.1", port).startswith("220 ")
    if mode == "explicit":
        client.auth()
    assert client.sock.version() == "TLSv" + version
    return client


def fetched(client, name, rest=None):
    parts = []
    reply = client.retrbinary("RETR " + name, parts.append, rest=rest)
    assert reply.startswith("226"), reply
    return b"".join(parts)


def log_in(client, user, password):
    refused("530", client.login, user, "not " + password, "", False)
    refused("530", client.pwd)
    assert client.login(user, password, secure=False).startswith("230")
    client.prot_p()


def whole_files(client):
    """storbinary and retrbinary, which end each data connection with unwrap()."""
    for size in (0, 1, 8191, 8192, 8193, 1_000_003):
        content = os.urandom(size)
        name = f"{size} bytes.bin"
        assert client.storbinary("STOR " + name, io.BytesIO(content)).startswith("226")
        assert client.size(name) == size
        assert fetched(client, name) == content
    assert client.storbinary("STOR 1 bytes.bin", io.BytesIO(b"replaced")).startswith("226")
    assert fetched(client, "1 bytes.bin") == b"replaced"
    assert client.storbinary("APPE 1 bytes.bin", io.BytesIO(b", appended")).startswith("226")
    assert fetched(client, "1 bytes.bin") == b"replaced, appended"


def restart(client):
    content = os.urandom(500_000)
    client.storbinary("STOR restart", io.BytesIO(content))
    assert fetched(client, "restart", rest=123_456) == content[123_456:]
    assert fetched(client, "restart", rest=500_000) == b""
    # A marker is good for one transfer.
    assert fetched(client, "restart") == content
    refused("554", client.retrbinary, "RETR restart", print, 8192, 500_001)
    tail = os.urandom(400_000)
    client.storbinary("STOR restart", io.BytesIO(tail), rest=100_000)
    assert fetched(client, "restart") == content[:100_000] + tail


def lines(client):
    """TYPE A: CRLF on the way, LF in the file."""
    assert client.storlines("STOR lines.txt", io.BytesIO(b"one\ntwo\r\n\nfour, without an end")).startswith("226")
    # storlines ends every line.
    assert fetched(client, "lines.txt") == b"one\ntwo\n\nfour, without an end\n"
    collected = []
    assert client.retrlines("RETR lines.txt", collected.append).startswith("226")
    assert collected == ["one", "two", "", "four, without an end"], collected


def directories(client):
    assert client.mkd("a directory") == "/a directory"
    assert client.mkd('with "quotes"') == '/with "quotes"'
    refused("550", client.mkd, "a directory")
    client.cwd("a directory")
    assert client.pwd() == "/a directory"
    names = ["plain", "grüße 日本", " leading", "-dash", "x" * 255, "per%cent", "semi;colon", "equals=sign"]
    for name in names:
        client.storbinary("STOR " + name, io.BytesIO(name.encode()))
    client.mkd("sub")
    assert sorted(client.nlst()) == sorted(names + ["sub"])
    facts = {name: entry for name, entry in client.mlsd() if entry["type"] not in ("cdir", "pdir")}
    assert sorted(facts) == sorted(names + ["sub"])
    assert facts["sub"]["type"] == "dir"
    for name in names:
        entry = facts[name]
        assert (entry["type"], int(entry["size"])) == ("file", len(name.encode())), entry
        assert len(entry["modify"]) == 14, entry
        assert fetched(client, name) == name.encode()
    some = dict(client.mlsd(facts=["type", "size"]))
    assert some["plain"] == {"type": "file", "size": "5"}, some["plain"]
    listed = []
    client.dir(listed.append)
    assert len(listed) == len(names) + 1
    for name in names:
        assert any(line.startswith("-rw") and line.endswith(" " + name) for line in listed), (name, listed)
    elsewhere = []
    client.dir("/a directory", elsewhere.append)
    assert elsewhere == listed
    assert client.nlst("/a directory/sub") == []
    client.cwd("..")
    assert client.pwd() == "/"
    refused("550", client.rmd, "a directory")
    for name in names:
        client.delete("a directory/" + name)
    client.rmd("a directory/sub")
    client.rmd("a directory")
    client.rmd('with "quotes"')
    refused("550", client.cwd, "a directory")
    refused("550", client.rmd, "a directory")


def renames(client):
    client.storbinary("STOR from", io.BytesIO(b"moved"))
    client.storbinary("STOR to", io.BytesIO(b"in the way"))
    assert client.rename("from", "to").startswith("250")
    assert fetched(client, "to") == b"moved"
    refused("550", client.rename, "from", "elsewhere")
    assert client.delete("to").startswith("250")
    refused("550", client.delete, "to")
    refused("550", client.size, "to")


def refusals(client):
    """A transfer that cannot be is refused before 150, whatever it is, and the session goes on."""
    client.mkd("directory")
    client.voidcmd("TYPE I")
    for command in ("RETR missing", "RETR directory", "LIST missing", "NLST missing", "MLSD missing"):
        refused("550", client.transfercmd, command)
    refused("553", client.transfercmd, "STOR missing/file")
    refused("553", client.transfercmd, "STOR directory")
    client.rmd("directory")
    # RFC 4217 §9: this gateway takes no transfers in clear, and says so at PROT.
    refused("534", client.voidcmd, "PROT C")
    assert client.voidcmd("NOOP").startswith("200")


def stopped(client):
    """Downloads and uploads that end before they are done."""
    content = os.urandom(20_000_000)
    client.storbinary("STOR long", io.BytesIO(content), blocksize=1 << 18)
    client.voidcmd("TYPE I")

    data = client.transfercmd("RETR long")
    data.recv(1000)
    assert client.abort().startswith("426")
    assert client.voidresp().startswith("226")
    data.close()
    assert client.abort().startswith("226"), "with nothing to abort"

    # Closed without a word: one 426, and nothing after it.
    data = client.transfercmd("RETR long")
    data.recv(1000)
    data.close()
    refused("426", client.voidresp)
    assert client.voidcmd("NOOP").startswith("200")

    # An upload without close_notify was cut, as far as anybody can tell.
    data = client.transfercmd("STOR cut")
    data.sendall(content[:3_000_000])
    data.close()
    refused("426", client.voidresp)
    refused("550", client.size, "cut")
    assert client.storbinary("STOR cut", io.BytesIO(b"whole")).startswith("226")
    assert fetched(client, "cut") == b"whole"

    data = client.transfercmd("STOR aborted")
    data.sendall(content[:3_000_000])
    assert client.abort().startswith("426")
    assert client.voidresp().startswith("226")
    data.close()
    refused("550", client.size, "aborted")
    assert sorted(name for name in client.nlst() if "cut" in name or "aborted" in name) == ["cut"]
    client.delete("cut")
    client.delete("long")


def many(client):
    client.mkd("many")
    client.cwd("many")
    for number in range(200):
        client.storbinary(f"STOR {number}", io.BytesIO(b"%d" % number))
    assert sorted(client.nlst(), key=int) == [str(number) for number in range(200)]
    for number in range(200):
        assert fetched(client, str(number)) == b"%d" % number
        client.delete(str(number))
    client.cwd("/")
    client.rmd("many")


def main():
    mode, version, port, authority, user, password = sys.argv[1:]
    assert (3, 9) <= sys.version_info, sys.version
    client = connected(mode, version, int(port), authority)
    if mode == "explicit":
        in_clear = ftplib.FTP(timeout=60)
        in_clear.connect("127.0.0.1", int(port))
        refused("530", in_clear.sendcmd, "USER " + user)
        in_clear.close()
    log_in(client, user, password)
    steps = (whole_files, restart, lines, directories, renames, refusals, stopped, many)
    for step in steps:
        step(client)
    assert client.quit().startswith("221")

    client = connected(mode, version, int(port), authority, resuming=True)
    client.login(user, password, secure=False)
    client.prot_p()
    for number in range(10):
        content = os.urandom(100_000)
        client.storbinary(f"STOR resumed {number}", io.BytesIO(content))
        assert fetched(client, f"resumed {number}") == content
        assert f"resumed {number}" in client.nlst()
    assert client.quit().startswith("221")


main()
