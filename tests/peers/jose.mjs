// Verifies a token from standard input with `jose`, through discovery and the key set.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, issuer, audience] = process.argv.slice(2);
const from = createRequire(`${folder}/`);
const { createRemoteJWKSet, jwtVerify } = await import(pathToFileURL(from.resolve("jose")));
const found = await (await fetch(`${issuer}/.well-known/openid-configuration`)).json();
const keys = createRemoteJWKSet(new URL(found.jwks_uri));
const algorithms = found.id_token_signing_alg_values_supported;
const token = readFileSync(0, "utf8").trim();
const { payload } = await jwtVerify(token, keys, { issuer: found.issuer, audience, algorithms });
console.log(JSON.stringify(payload));
