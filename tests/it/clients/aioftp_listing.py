"""LIST or MLSD as aioftp parses it.

    aioftp_listing.py MODE VERSION PORT AUTHORITY USER PASSWORD DIRECTORY COMMAND

A line for each entry: kind (file, dir or link), size, time in UTC, name in hexadecimal digits.
"""

import asyncio
import ssl
import sys

import aioftp


async def main():
    mode, version, port, authority, user, password, directory, command = sys.argv[1:]
    assert (mode, version) == ("explicit", "1.3")
    # Bytes as the characters of their numbers: every name comes through.
    client = aioftp.Client(socket_timeout=60, encoding="latin-1")
    await client.connect("127.0.0.1", int(port))
    await client.upgrade_to_tls(ssl.create_default_context(cafile=authority))
    await client.login(user, password)
    async for path, facts in client.list(directory, raw_command=command):
        # From MLSD it hands on the word of RFC 3659's registry for a link.
        kind = "link" if facts["type"].lower().startswith("os.unix=slink") else facts["type"]
        print(kind, facts.get("size", "-"), facts["modify"], path.name.encode("latin-1").hex())
    await client.quit()


asyncio.run(main())
