"""aioftp, told one step at a time; the steps and their answers are those of support/real_clients.rs.

    aioftp_session.py MODE VERSION PORT AUTHORITY USER PASSWORD
"""

import asyncio
import pathlib
import ssl
import sys

import aioftp


async def stored(opening, content):
    async with opening as stream:
        await stream.write(content)


async def fetched(opening):
    async with opening as stream:
        return await stream.read()


async def upload(client, local, remote):
    await stored(client.upload_stream(remote), pathlib.Path(local).read_bytes())


async def download(client, remote, local):
    pathlib.Path(local).write_bytes(await fetched(client.download_stream(remote)))


async def continue_upload(client, local, remote):
    offset = int((await client.stat(remote))["size"])
    await stored(client.upload_stream(remote, offset=offset), pathlib.Path(local).read_bytes()[offset:])


async def append(client, local, remote):
    await stored(client.append_stream(remote), pathlib.Path(local).read_bytes())


async def continue_download(client, remote, local):
    with open(local, "ab") as file:
        file.write(await fetched(client.download_stream(remote, offset=file.tell())))


async def upload_text(client, local, remote):
    """aioftp leaves the ends of lines to its users."""
    stream = await client.get_stream("STOR " + remote, "1xx", conn_type="A")
    await stored(stream, pathlib.Path(local).read_bytes().replace(b"\n", b"\r\n"))


async def download_text(client, remote, local):
    stream = await client.get_stream("RETR " + remote, "1xx", conn_type="A")
    pathlib.Path(local).write_bytes((await fetched(stream)).replace(b"\r\n", b"\n"))


async def list_directory(client, directory):
    async for path, facts in client.list(directory):
        print("entry", facts["type"], facts.get("size", "-"), path.name, sep="\t")


STEPS = {
    "upload": upload,
    "download": download,
    "continue-upload": continue_upload,
    "continue-download": continue_download,
    "append": append,
    "upload-text": upload_text,
    "download-text": download_text,
    "list": list_directory,
    "rename": lambda client, old, new: client.rename(old, new),
    "delete": lambda client, name: client.remove_file(name),
    # make_directory makes only what is not there.
    "mkdir": lambda client, name: client.command("MKD " + name, "2xx"),
    "rmdir": lambda client, name: client.remove_directory(name),
}


async def answered(step):
    """Takes a step and answers it; false when it did not succeed."""
    try:
        await step
    except aioftp.StatusCodeError as error:
        print("refused", error.received_codes[-1], sep="\t", flush=True)
        return False
    except (OSError, EOFError, ValueError) as error:
        print("failed", repr(error), sep="\t", flush=True)
        return False
    print("done", flush=True)
    return True


async def log_in(client, context, mode, port, user, password):
    await client.connect("127.0.0.1", port)
    if mode == "explicit":
        await client.upgrade_to_tls(context)
    await client.login(user, password)


async def main():
    mode, version, port, authority, user, password = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = context.maximum_version = {
        "1.2": ssl.TLSVersion.TLSv1_2,
        "1.3": ssl.TLSVersion.TLSv1_3,
    }[version]
    client = aioftp.Client(socket_timeout=60, ssl=context if mode == "implicit" else None)
    if await answered(log_in(client, context, mode, int(port), user, password)):
        for line in sys.stdin:
            step, *arguments = line.rstrip("\n").split("\t")
            await answered(STEPS[step](client, *arguments))
        await client.quit()


asyncio.run(main())
