// Microsoft's SDK as the judge of the fake Bot Service: `node teams.mjs FOLDER < told.json`.
// Prints one line of JSON: what it believed of each case, and what its connector client met.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.argv[2] + "/package.json");
const told = JSON.parse(readFileSync(0, "utf8"));
const sdk = require("botframework-connector");
console.error = () => {}; // It prints what it refuses.

sdk.ChannelValidation.OpenIdMetadataEndpoint = told.metadata;
const known = new sdk.SimpleCredentialProvider(told.app, told.secret);
const believed = [];
for (const { header, body } of told.cases) {
    try {
        const identity = await sdk.JwtTokenValidation.authenticateRequest(body, header ?? "", known, "");
        believed.push(identity.isAuthenticated === true);
    } catch {
        believed.push(false);
    }
}

// The token is asked for as the SDK's own credentials do; MSAL itself takes no plain-http authority.
const grant = await fetch(`${told.authority}/${told.tenant}/oauth2/v2.0/token`, {
    method: "POST",
    body: new URLSearchParams({
        grant_type: "client_credentials", client_id: told.app, client_secret: told.secret,
        scope: sdk.AuthenticationConstants.ToChannelFromBotOAuthScope + "/.default",
    }),
});
const { access_token } = await grant.json();
const credentials = { signRequest: async (request) => {
    request.headers.set("authorization", `Bearer ${access_token}`);
    return request;
} };
const client = new sdk.ConnectorClient(credentials, { baseUri: told.serviceUrl });
const conversations = client.conversations;
const message = (text) => ({ type: "message", text });
const place = "19:reviewers@thread.tacv2";
const first = await conversations.sendToConversation(place, message("first"));
await conversations.updateActivity(place, first.id, message("second"));
const reply = await conversations.replyToActivity(place, first.id, message("third"));
await conversations.deleteActivity(place, reply.id);
const direct = await conversations.createConversation({
    isGroup: false, bot: { id: `28:${told.app}` }, members: [{ id: "29:jo" }],
    tenantId: told.tenant, channelData: { tenant: { id: told.tenant } },
});
const member = await conversations.getConversationMember(place, "29:jo");
let refused = 0;
try {
    await conversations.updateActivity(place, "nothing", message("x"));
} catch (e) {
    refused = e.statusCode;
}
console.log(JSON.stringify({
    believed, conversation: direct.id, member: member.aadObjectId, refused,
}));
