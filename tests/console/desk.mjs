// What the console's tests and screenshots share: the demo's doors, its people, and a browser.
import { readFileSync } from "node:fs";
import { executablePath } from "../peers/browser.mjs";

const { chromium } = await import(process.env.PLAYWRIGHT);
export const env = process.env;
export const console_ = env.GRANTWRIGHT_CONSOLE;
const word = (path) => readFileSync(path, "utf8").trim();
const agent = word(env.GRANTWRIGHT_TOKEN_FILE);
const operator = word(`${env.GRANTWRIGHT_HUMANS}/../operator.token`);

export const ensure = (fine, why) => { if (!fine) throw new Error(why); };

async function call(url, bearer, method, body) {
  const answer = await fetch(url, {
    method, body: body && JSON.stringify(body),
    headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json" },
  });
  return { status: answer.status, body: await answer.json() };
}

/** The agent, at its sidecar. */
export const sidecar = (method, path, body) => call(env.GRANTWRIGHT_SIDECAR + path, agent, method, body);

/** A new ask that waits for people; its id. */
export async function ask(scope, params, reason, more = {}) {
  const { status, body } = await sidecar("POST", "/v1/credentials", { scope, params, reason, ...more });
  ensure(status === 202, `${scope}: ${status} ${body.code ?? body.state}`);
  return body.request_id;
}

/** What the agent sees of its request; this also collects. */
export const state = async (id) => (await sidecar("GET", `/v1/requests/${id}`)).body;

/** The people's API, as carol unless another is named. */
export const api = async (path, body, person = "carol") =>
  (await call(console_ + path, word(`${env.GRANTWRIGHT_HUMANS}/${person}.token`), body ? "POST" : "GET", body)).body;

/** A person's decision through the API, on the present digest. */
export async function decide(verb, id, fields = {}, person = "carol") {
  const { digest } = await api(`/api/v1/requests/${id}`, undefined, person);
  return api(`/api/v1/requests/${id}/${verb}`, { digest, ...fields }, person);
}

/** A one-time link, made by the operator. */
export const link = async (person, purpose) =>
  (await call(`${console_}/api/v1/people/${person}/link`, operator, "POST", { purpose })).body.url;

/** Operators' calls. */
export const operate = (path, body) => call(console_ + path, operator, body ? "POST" : "GET", body);

export const launch = () => chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** An authenticator that always finds its person present and verified. */
export async function authenticator(context, page) {
  const cdp = await context.newCDPSession(page);
  await cdp.send("WebAuthn.enable");
  await cdp.send("WebAuthn.addVirtualAuthenticator", { options: {
    protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true,
    isUserVerified: true, automaticPresenceSimulation: true } });
}
