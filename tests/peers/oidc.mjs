// A real OpenID provider for tests: `node oidc.mjs FOLDER < told.json`, told: {port, redirect, alg, kept}.
// People sign in by naming themselves: GET /interaction/<uid>?as=<subject> ends the interaction. Prints
// one line once it listens. Its only client is `grantwright`, public, PKCE demanded.

import { createRequire } from "node:module";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { generateKeyPairSync } from "node:crypto";

const require = createRequire(process.argv[2] + "/package.json");
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));
const told = JSON.parse(readFileSync(0, "utf8"));
const GROUPS = { "u-bob": ["data-approvers", "staff"], "u-carol": ["staff"] };
const made = {
    RS256: () => generateKeyPairSync("rsa", { modulusLength: 2048 }),
    ES256: () => generateKeyPairSync("ec", { namedCurve: "P-256" }),
    EdDSA: () => generateKeyPairSync("ed25519"),
};
// `kept`: a file of keys, made where it is not there yet.
const keys = told.kept && existsSync(told.kept) ? JSON.parse(readFileSync(told.kept, "utf8"))
    : Object.entries(made).map(([alg, make]) => ({
        ...make().privateKey.export({ format: "jwk" }), kid: alg, alg, use: "sig",
    }));
if (told.kept) writeFileSync(told.kept, JSON.stringify(keys), { mode: 0o600 });
const alg = told.alg ?? "ES256";
const client = (id) => ({
    client_id: id, token_endpoint_auth_method: "none", grant_types: ["authorization_code"],
    response_types: ["code"], redirect_uris: [told.redirect], id_token_signed_response_alg: alg,
});
const provider = new Provider(`http://127.0.0.1:${told.port}`, {
    clients: [client("grantwright"), client("another")],
    jwks: { keys },
    enabledJWA: { idTokenSigningAlgValues: Object.keys(made) },
    pkce: { required: () => true },
    claims: { openid: ["sub"], profile: ["preferred_username"], groups: ["groups"] },
    conformIdTokenClaims: false,
    features: { devInteractions: { enabled: false } },
    ttl: { IdToken: told.life ?? 3600 },
    cookies: { keys: ["a test's"] },
    findAccount: (_, id) => ({
        accountId: id,
        claims: async () => ({
            sub: id, preferred_username: id.slice(2), groups: GROUPS[id] ?? [],
            email: "bob@example.org", email_verified: true,
        }),
    }),
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
});
provider.use(async (ctx, next) => {
    if (!ctx.path.startsWith("/interaction/")) return next();
    const details = await provider.interactionDetails(ctx.req, ctx.res);
    const accountId = details.session?.accountId ?? ctx.query.as;
    const grant = new provider.Grant({ accountId, clientId: details.params.client_id });
    grant.addOIDCScope("openid profile groups");
    const result = { login: { accountId }, consent: { grantId: await grant.save() } };
    await provider.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: false });
});
provider.listen(told.port, "127.0.0.1", () => console.log("listening"));
