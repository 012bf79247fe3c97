// npm's basic-ftp, told one step at a time; the steps and their answers are those of support/real_clients.rs.
//
//     basic_ftp_session.cjs MODE VERSION PORT AUTHORITY USER PASSWORD

"use strict";

const fs = require("node:fs");
const readline = require("node:readline");
const { Readable } = require("node:stream");
const { Client, FTPError } = require("basic-ftp");

const [mode, version, port, authority, user, password] = process.argv.slice(2);
const client = new Client(60_000);

async function listDirectory(directory) {
    for (const entry of await client.list(directory)) {
        const columns = entry.isDirectory ? ["dir", "-"] : ["file", entry.size];
        console.log(["entry", ...columns, entry.name].join("\t"));
    }
}

async function asText(transfer) {
    await client.send("TYPE A");
    try {
        await transfer();
    } finally {
        await client.send("TYPE I");
    }
}

async function continueUpload(local, remote) {
    await client.appendFrom(local, remote, { localStart: await client.size(remote) });
}

// basic-ftp leaves the ends of lines to its users.
const uploadText = (local, remote) => asText(() => {
    const text = fs.readFileSync(local, "latin1").replaceAll("\n", "\r\n");
    return client.uploadFrom(Readable.from([Buffer.from(text, "latin1")]), remote);
});

const downloadText = (remote, local) => asText(async () => {
    await client.downloadTo(local, remote);
    fs.writeFileSync(local, fs.readFileSync(local, "latin1").replaceAll("\r\n", "\n"), "latin1");
});

const steps = {
    "upload": (local, remote) => client.uploadFrom(local, remote),
    "download": (remote, local) => client.downloadTo(local, remote),
    "continue-upload": continueUpload,
    "continue-download": (remote, local) => client.downloadTo(local, remote, fs.statSync(local).size),
    "append": (local, remote) => client.appendFrom(local, remote),
    "upload-text": uploadText,
    "download-text": downloadText,
    "list": listDirectory,
    "rename": (from, to) => client.rename(from, to),
    "delete": (name) => client.remove(name),
    "mkdir": (name) => client.send("MKD " + name),
    "rmdir": (name) => client.removeEmptyDir(name),
};

/** Takes a step and answers it; false when it did not succeed. */
async function answered(step) {
    try {
        await step();
    } catch (error) {
        console.log(error instanceof FTPError ? `refused\t${error.code}` : `failed\t${error.message.replace(/\s+/g, " ")}`);
        return false;
    }
    console.log("done");
    return true;
}

async function main() {
    const entered = await answered(() => client.access({
        host: "127.0.0.1",
        port: Number(port),
        user,
        password,
        secure: mode === "implicit" ? "implicit" : true,
        secureOptions: {
            ca: fs.readFileSync(authority),
            minVersion: `TLSv${version}`,
            maxVersion: `TLSv${version}`,
        },
    }));
    if (entered) {
        for await (const line of readline.createInterface({ input: process.stdin })) {
            const [step, ...words] = line.split("\t");
            await answered(() => steps[step](...words));
        }
    }
    client.close();
}

main();
