// The TypeScript SDKs of the Model Context Protocol as clients: `node mcp.mjs FOLDER`, one JSON object a
// line. The first line on stdin says how to connect: {"sdk": "v1"|"v2", "url"?, "token"?, "command"?,
// "args"?, "env"?}; each later one is a call {"id", "method", …} or {"cancel": id}. Answers and
// progress are lines on stdout.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(process.argv[2] + "/package.json");
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");
const info = { name: "grantwright-tests", version: "1" };

async function connect(told) {
    const v2 = told.sdk === "v2";
    const { Client } = v2
        ? require("@modelcontextprotocol/client")
        : require("@modelcontextprotocol/sdk/client/index.js");
    const client = v2
        ? new Client(info, { versionNegotiation: { mode: "auto" } })
        : new Client(info);
    let transport;
    if (told.url) {
        const { StreamableHTTPClientTransport } = v2
            ? require("@modelcontextprotocol/client")
            : require("@modelcontextprotocol/sdk/client/streamableHttp.js");
        transport = new StreamableHTTPClientTransport(new URL(told.url), {
            requestInit: { headers: { Authorization: `Bearer ${told.token}` } },
        });
    } else {
        const { StdioClientTransport } = v2
            ? require("@modelcontextprotocol/client/stdio")
            : require("@modelcontextprotocol/sdk/client/stdio.js");
        transport = new StdioClientTransport({
            command: told.command, args: told.args, env: told.env, stderr: "ignore",
        });
    }
    await client.connect(transport);
    const version =
        client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion ?? null;
    say({
        connected: true, version, server: client.getServerVersion(),
        instructions: client.getInstructions(),
    });
    return client;
}

const calls = new Map();

async function call(client, told) {
    const abort = new AbortController();
    calls.set(told.id, abort);
    try {
        const options = { signal: abort.signal, timeout: 120_000 };
        if (told.progress) {
            options.onprogress = (it) => say({ id: told.id, progress: it });
        }
        let result;
        if (told.method === "tools/list") {
            result = await client.listTools();
        } else if (told.sdk === "v2") {
            result = await client.callTool({ name: told.name, arguments: told.arguments }, options);
        } else {
            result = await client.callTool(
                { name: told.name, arguments: told.arguments }, undefined, options);
        }
        say({ id: told.id, result });
    } catch (error) {
        say({ id: told.id, error: String(error?.message ?? error) });
    } finally {
        calls.delete(told.id);
    }
}

let client;
let sdk;
for await (const line of createInterface({ input: process.stdin })) {
    const told = JSON.parse(line);
    if (!client) {
        sdk = told.sdk;
        try {
            client = await connect(told);
        } catch (error) {
            say({ connected: false, error: String(error?.stack ?? error) });
            process.exit(1);
        }
    } else if (told.cancel !== undefined) {
        calls.get(told.cancel)?.abort("no longer wanted");
    } else {
        call(client, { ...told, sdk });
    }
}
await client?.close();
process.exit(0);
