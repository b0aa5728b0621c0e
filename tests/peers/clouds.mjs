// The vendors' own clients against the fake clouds of `testkit`: what they accept, the fake speaks.
//
//   node clouds.mjs PACKAGES URL APP_KEY.pem
//
// Azure's and Google's clients want https: a proxy of ours, with a certificate made on the spot, stands
// before the fake for them. Prints `ok NAME` for each, `NO NAME: why` otherwise.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [packages, url, keyFile] = process.argv.slice(2);
const require = createRequire(path.join(packages, "package.json"));
const load = async (name) => {
  try {
    return await import(pathToFileURL(require.resolve(name)));
  } catch {
    // Without a `require` entry: by the package's own word for `import`.
    const folder = path.join(packages, "node_modules", name);
    const said = JSON.parse(readFileSync(path.join(folder, "package.json")));
    const entry = said.exports?.["."] ?? said.exports ?? said.module ?? said.main;
    const file = entry?.import?.default ?? entry?.import ?? entry?.default ?? entry;
    return await import(pathToFileURL(path.join(folder, file)));
  }
};

const folder = mkdtempSync(path.join(os.tmpdir(), "grantwright-clouds-"));
execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
  "-keyout", `${folder}/key.pem`, "-out", `${folder}/cert.pem`, "-days", "1", "-subj", "/CN=localhost",
  "-addext", "subjectAltName=DNS:localhost"], { stdio: "ignore" });
const to = new URL(url);
const proxy = https.createServer(
  { key: readFileSync(`${folder}/key.pem`), cert: readFileSync(`${folder}/cert.pem`) },
  (from, answer) => {
    const headers = { ...from.headers, host: to.host };
    const onward = http.request(
      { host: to.hostname, port: to.port, method: from.method, path: from.url, headers },
      (back) => {
        answer.writeHead(back.statusCode, { "content-type": "application/json" });
        let text = "";
        back.setEncoding("utf8");
        back.on("data", (chunk) => (text += chunk));
        // Documents name the fake's own address: for these clients it is the proxy's.
        back.on("end", () => answer.end(text.replaceAll(`https://${to.host}`, secure)));
      },
    );
    onward.on("error", () => answer.destroy());
    from.pipe(onward);
  },
);
await new Promise((listening) => proxy.listen(0, "127.0.0.1", listening));
const secure = `https://localhost:${proxy.address().port}`;

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
const assertion = (aud) => `${part({ alg: "ES256" })}.${part({ iss: "https://b", sub: "https://b/broker", aud })}.c2ln`;
const hold = (ok, why) => {
  if (!ok) throw new Error(why);
};

const clients = {
  async kubernetes() {
    const k8s = await load("@kubernetes/client-node");
    const config = new k8s.KubeConfig();
    config.loadFromClusterAndUser({ name: "fake", server: url, skipTLSVerify: true }, { name: "me", token: "t" });
    const core = config.makeApiClient(k8s.CoreV1Api);
    const secret = await core.createNamespacedSecret({
      namespace: "sales", body: { metadata: { name: "grantwright-node" }, type: "Opaque" },
    });
    const bound = { apiVersion: "v1", kind: "Secret", name: secret.metadata.name, uid: secret.metadata.uid };
    const made = await core.createNamespacedServiceAccountToken({
      namespace: "sales", name: "reader",
      body: { spec: { audiences: ["https://data.example.com"], expirationSeconds: 600, boundObjectRef: bound } },
    });
    hold(made.status.token.split(".").length === 3, "no token");
    hold(made.status.expirationTimestamp instanceof Date, "no time");
    const review = async () => (await config.makeApiClient(k8s.AuthenticationV1Api).createTokenReview({
      body: { spec: { token: made.status.token, audiences: ["https://data.example.com"] } },
    })).status.authenticated;
    hold(await review(), "the token is not accepted");
    await core.deleteNamespacedSecret({ namespace: "sales", name: "grantwright-node" });
    hold(!(await review()), "the token is accepted though its object is gone");
  },
  async github() {
    const { createAppAuth } = await load("@octokit/auth-app");
    const { request } = await load("@octokit/request");
    const auth = createAppAuth({
      appId: 4711, privateKey: readFileSync(keyFile, "utf8"), request: request.defaults({ baseUrl: url }),
    });
    const got = await auth({
      type: "installation", installationId: 12345, repositoryNames: ["website"], permissions: { contents: "read" },
    });
    hold(got.token.startsWith("ghs_") && got.permissions.contents === "read", "another token");
    hold(got.repositorySelection === "selected", "not only some repositories");
    const headers = { authorization: `token ${got.token}` };
    const ended = await request("DELETE /installation/token", { baseUrl: url, headers });
    hold(ended.status === 204, "it was not ended");
  },
  async google() {
    const { IdentityPoolClient } = await load("google-auth-library");
    const provider = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/b";
    const client = new IdentityPoolClient({
      type: "external_account", audience: provider,
      subject_token_type: "urn:ietf:params:oauth:token-type:jwt", token_url: `${secure}/v1/token`,
      service_account_impersonation_url:
        `${secure}/v1/projects/-/serviceAccounts/reader@acme.iam.gserviceaccount.com:generateAccessToken`,
      subject_token_supplier: { getSubjectToken: async () => assertion(`https:${provider}`) },
    });
    const got = await client.getAccessToken();
    hold(got.token.startsWith("account-"), `another token: ${got.token}`);
  },
  async azure() {
    const { ClientAssertionCredential } = await load("@azure/identity");
    const credential = new ClientAssertionCredential(
      "66666666-7777-8888-9999-000000000000", "11111111-2222-3333-4444-555555555555",
      async () => assertion("api://AzureADTokenExchange"),
      { authorityHost: secure, disableInstanceDiscovery: true },
    );
    const got = await credential.getToken("https://sales.vault.azure.net/.default");
    hold(got.token.split(".").length === 3 && got.expiresOnTimestamp > Date.now(), "another token");
  },
};

let failed = 0;
for (const [name, run] of Object.entries(clients)) {
  try {
    await run();
    console.log(`ok ${name}`);
  } catch (fault) {
    failed += 1;
    console.log(`NO ${name}: ${fault.stack ?? fault}`);
  }
}
rmSync(folder, { recursive: true, force: true });
process.exit(failed ? 1 : 0);
