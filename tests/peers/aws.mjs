// The AWS SDK for JavaScript v3 as an agent would have it: `node aws.mjs FOLDER`; each line on stdin asks
// STS who we are, and the answer is one line. CREDENTIALS_FROM=process names the provider in the code.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(process.argv[2] + "/package.json");
const { STSClient, GetCallerIdentityCommand } = require("@aws-sdk/client-sts");
// The default chain goes on to the next source and forgets why one failed; a provider that is named does not.
const named = process.env.CREDENTIALS_FROM === "process"
    ? { credentials: require("@aws-sdk/credential-provider-process").fromProcess() } : {};
const client = new STSClient({ maxAttempts: 1, ...named });
const said = (error) => {
    const words = [];
    for (let it = error; it; it = it.cause) {
        words.push(it.message, ...(it.errors ?? []).map((one) => one.message));
    }
    return words.join(" ").split(/\s+/).join(" ");
};
for await (const _ of createInterface({ input: process.stdin })) {
    try {
        console.log("OK", (await client.send(new GetCallerIdentityCommand({}))).Arn);
    } catch (error) {
        console.log("NO", said(error));
    }
}
