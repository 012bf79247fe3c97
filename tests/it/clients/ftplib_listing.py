"""MLSD as Python's ftplib parses it.

    ftplib_listing.py MODE VERSION PORT AUTHORITY USER PASSWORD DIRECTORY

A line for each entry: kind (file, dir or link), size, time in UTC, name in hexadecimal digits.
"""

import ftplib
import ssl
import sys

KINDS = {"file": "file", "dir": "dir", "OS.unix=slink:": "link", "OS.unix=symlink": "link"}


def main():
    mode, version, port, authority, user, password, directory = sys.argv[1:]
    assert (mode, version) == ("explicit", "1.3"), "ftplib has no implicit TLS"
    context = ssl.create_default_context(cafile=authority)
    # Bytes as the characters of their numbers: every name comes through.
    client = ftplib.FTP_TLS(context=context, timeout=60, encoding="latin-1")
    client.connect("127.0.0.1", int(port))
    client.login(user, password)
    client.prot_p()
    for name, facts in client.mlsd(directory):
        kind = KINDS.get(facts["type"], facts["type"])
        print(kind, facts.get("size", "-"), facts["modify"], name.encode("latin-1").hex())
    client.quit()


main()
