// The reference library of Standard Webhooks as a receiver and as a sender:
// `node webhook.mjs FOLDER < told.json`. Prints one line of JSON.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.argv[2] + "/package.json");
const { Webhook } = require("standardwebhooks");
const told = JSON.parse(readFileSync(0, "utf8"));
const verified = told.messages.map(({ secret, headers, body }) => {
    try {
        new Webhook(secret).verify(body, headers);
        return true;
    } catch {
        return false;
    }
});
const at = new Date();
const body = '{"decision":"approve","note":"ünïcode"}';
const signature = new Webhook(told.secret).sign("msg_from_the_library", at, body);
console.log(JSON.stringify({
    verified,
    sent: { id: "msg_from_the_library", timestamp: String(Math.floor(at / 1000)), signature, body },
}));
