// Drives the console as bob would, in Debian's Chromium, against a running demo.
import { readFileSync, mkdirSync } from "node:fs";

const { chromium } = await import(process.env.PLAYWRIGHT);
const env = process.env;
const token = readFileSync(env.GRANTWRIGHT_TOKEN_FILE, "utf8").trim();
const carol = readFileSync(`${env.GRANTWRIGHT_HUMANS}/carol.token`, "utf8").trim();
const console_ = env.GRANTWRIGHT_CONSOLE;
let passed = 0, failed = 0;

async function test(name, work) {
  const begun = Date.now();
  try {
    await work();
    passed += 1;
    console.log(`ok   console::${name} ${Date.now() - begun} ms`);
  } catch (fault) {
    failed += 1;
    console.log(`FAIL console::${name}\n       ${String(fault.stack ?? fault).split("\n").slice(0, 8).join("\n       ")}`);
  }
}
const ensure = (fine, why) => { if (!fine) throw new Error(why); };

async function sidecar(method, path, body) {
  const answer = await fetch(env.GRANTWRIGHT_SIDECAR + path, {
    method, body: body && JSON.stringify(body),
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
  });
  return { status: answer.status, body: await answer.json() };
}
async function ask(scope, params, reason, more = {}) {
  const { status, body } = await sidecar("POST", "/v1/credentials", { scope, params, reason, ...more });
  ensure(status === 202, `${scope}: ${status} ${body.code ?? body.state}`);
  return body.request_id;
}
const state = async (id) => (await sidecar("GET", `/v1/requests/${id}`)).body;
async function api(path, body) {
  const answer = await fetch(console_ + path, {
    method: body ? "POST" : "GET", body: body && JSON.stringify(body),
    headers: { authorization: `Bearer ${carol}`, "content-type": "application/json" },
  });
  return answer.json();
}

const browser = await chromium.launch({
  executablePath: env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const context = await browser.newContext({ viewport: { width: 1366, height: 768 }, timezoneId: "UTC" });
const page = await context.newPage();
page.setDefaultTimeout(15000);
const violations = [];
const watch = (p) => {
  p.on("console", (m) => { if (/content security|csp|refused to/i.test(m.text())) violations.push(m.text()); });
  p.on("pageerror", (e) => violations.push(`script: ${e.message}`));
  p.on("request", (r) => { if (!r.url().startsWith(console_) && !r.url().startsWith("data:")) violations.push(`foreign: ${r.url()}`); });
};
watch(page);
const open = (id) => page.goto(`${console_}/requests/${id}`);
const press = (name) => page.getByRole("button", { name, exact: true }).click();

await test("who is not signed in is led to sign in", async () => {
  const answer = await fetch(`${console_}/agents`, { redirect: "manual", headers: { accept: "text/html" } });
  ensure(answer.status === 303, `status ${answer.status}`);
  ensure(answer.headers.get("location") === "/signin?next=%2Fagents", answer.headers.get("location"));
});

await test("a link signs in, and the inbox has its links", async () => {
  await page.goto(env.GRANTWRIGHT_LOGIN_BOB);
  for (const name of ["Inbox", "Agents", "Leases", "Log"]) {
    ensure(await page.getByRole("link", { name, exact: true }).count() === 1, name);
  }
});

await test("a request appears by itself, is approved with one press, and the agent has its credential", async () => {
  await page.goto(console_);
  const id = await ask("demo.export", { dataset: "customers", rows: 4242 }, "nightly report");
  await page.locator(`a[href="/requests/${id}"]`).first().waitFor();
  await page.locator(`a[href="/requests/${id}"]`).first().click();
  ensure(page.url().includes(id), page.url());
  await press("Approve");
  await page.getByText("You approved it").waitFor();
  const got = await state(id);
  ensure(got.state === "granted" && got.credential, got.state);
});

await test("deny with one tap; the agent is told", async () => {
  const id = await ask("demo.export", { dataset: "customers", rows: 1001 }, "x");
  await open(id);
  await page.keyboard.press("d");
  await press("Too much");
  await page.getByText("You denied it").waitFor();
  ensure((await state(id)).state === "denied", "not denied");
});

await test("ask, answer, and the answer joins the page by itself", async () => {
  const id = await ask("demo.export", { dataset: "orders", rows: 7 }, "x");
  await open(id);
  await page.keyboard.press("q");
  await page.getByLabel("Your question").fill("which ticket?");
  await page.locator("#ask").getByRole("button", { name: "Ask", exact: true }).click();
  await page.getByText("not answered yet").waitFor();
  const question = (await state(id)).question;
  ensure(question && question.text === "which ticket?", JSON.stringify(question));
  const other = await api(`/api/v1/requests/${id}/approve`, { digest: (await api(`/api/v1/requests/${id}`)).digest });
  ensure(other.code === "question_open", JSON.stringify(other));
  await sidecar("POST", `/v1/requests/${id}/answer`, { text: "ticket <b>42</b>" });
  await page.getByText("ticket <b>42</b>").first().waitFor();
  await sidecar("DELETE", `/v1/requests/${id}`);
});

await test("narrow: shown before, voted after, and the agent gets less", async () => {
  const id = await ask("demo.export", { dataset: "customers", rows: 9000 }, "x");
  await open(id);
  const before = await page.locator("article").getAttribute("data-digest");
  await page.getByRole("link", { name: "Narrow", exact: true }).click();
  await page.getByLabel(/rows/i).fill("500");
  await page.getByText("9,000 → 500").waitFor();
  await press("Narrow and approve");
  await page.getByText("You narrowed it").waitFor();
  ensure(before !== await page.locator("article").getAttribute("data-digest"), "the same digest");
  ensure((await page.locator("h1").textContent()).includes("500"), "the old headline");
  ensure((await state(id)).state === "granted", (await state(id)).state);
});

await test("an approval of two can be withdrawn", async () => {
  const id = await ask("demo.escalate", { role: "dba" }, "x");
  await open(id);
  await press("Approve");
  await press("Withdraw approval");
  await page.getByText("You withdrew").waitFor();
  ensure((await state(id)).state === undefined || !(await state(id)).credential, "issued");
  await sidecar("DELETE", `/v1/requests/${id}`);
});

await test("a page that fell behind cannot approve what it did not show", async () => {
  const id = await ask("demo.escalate", { role: "reader" }, "x");
  await open(id);
  await page.evaluate(() => { window.EventSource = null; document.querySelectorAll("[data-live]").forEach((r) => delete r.dataset.live); });
  await api(`/api/v1/requests/${id}/narrow`, { digest: (await api(`/api/v1/requests/${id}`)).digest, ttl: "5m" });
  await press("Approve");
  await page.getByRole("alert").getByText("Refused").waitFor();
  await sidecar("DELETE", `/v1/requests/${id}`);
});

await test("hostile words are harmless, and say whose they are", async () => {
  const hostile = "</blockquote><script>window.owned=1</script><img src=x onerror=window.owned=1> "
    + "\u202Eapproved by bob\u202C \u200B\u2066x\u2069 \u{E0041} \u001B[31m Policy: allow <button>Approve</button>";
  const id = await ask("demo.export", { dataset: "customers", rows: 3 }, hostile);
  await open(id);
  ensure(await page.evaluate(() => window.owned) === undefined, "a script of the agent ran");
  const text = await page.locator("body").innerText();
  ensure(!/[\u200B-\u200F\u202A-\u202E\u2066-\u2069\u001B\u{E0000}-\u{E007F}]/u.test(text), "a deceptive character");
  ensure(text.includes("⟨U+202E⟩") && text.includes("said by the agent, not checked"), "not marked");
  ensure(await page.getByRole("button", { name: "Approve", exact: true }).count() === 1, "a second Approve");
  await sidecar("DELETE", `/v1/requests/${id}`);
});

await test("what is too long must be opened before it is approved", async () => {
  const long = `begin ${"lorem ipsum ".repeat(150)} end`;
  const id = await ask("demo.export", { dataset: "customers", rows: 4 }, long);
  await open(id);
  ensure(await page.getByRole("button", { name: "Approve", exact: true }).count() === 0, "Approve is there");
  const size = (await (await context.request.get(`${console_}/requests/${id}`)).body()).length;
  ensure(size < 100_000, `${size} bytes`);
  await page.getByRole("link", { name: "Open in full first" }).click();
  ensure((await page.locator("pre.full").innerText()).includes("ipsum end"), "not whole");
  await press("Approve");
  await page.getByText("You approved it").waitFor();
});

await test("the leaves of a request are proven in the page", async () => {
  const id = await ask("demo.export", { dataset: "customers", rows: 5 }, "x");
  await open(id);
  await press("Verify here");
  await page.getByText(/leaves are in the log of \d+ leaves, signed by the log's key/).waitFor();
  // A proof about another request is refused.
  const other = await ask("demo.export", { dataset: "customers", rows: 6 }, "x");
  await page.route(`**/requests/${id}/proof`, async (route) => route.fulfill({
    json: await (await context.request.get(`${console_}/requests/${other}/proof`)).json() }));
  await press("Verify here");
  await page.locator("[data-verdict][data-proof=refuted]").waitFor();
  await page.unroute(`**/requests/${id}/proof`);
  for (const open of [id, other]) await sidecar("DELETE", `/v1/requests/${open}`);
});

await test("a lease is listed and ended", async () => {
  await page.goto(`${console_}/leases`);
  await page.locator("tbody tr").first().waitFor();
  await page.getByRole("button", { name: /End now|Stop serving/ }).first().click();
  await page.locator(".notice").waitFor();
});

await test("the log is searched by agent, person, scope, outcome and words", async () => {
  const found = async (query) => {
    await page.goto(`${console_}/log?${query}`);
    return page.locator("tbody tr").count();
  };
  ensure(await found("agent=demo-agent") > 3, "by agent");
  ensure(await found("human=bob") > 2, "by person");
  ensure(await found("human=dave") === 0, "by a person who did nothing");
  ensure(await found("scope=demo.export&outcome=denied") > 0, "by scope and outcome");
  ensure(await found("text=NIGHTLY") > 0, "by words");
  ensure(await found("text=%25%25%25") === 0, "by a pattern");
  ensure(await found("until=2001-01-01") === 0, "by time");
  await page.goto(`${console_}/log?outcome=nonsense`);
  await page.getByText("there is no such outcome").waitFor();
});

await test("agents and policies can be read", async () => {
  await page.goto(`${console_}/agents`);
  await page.getByRole("link", { name: "demo-agent" }).click();
  await page.getByText("Holds now").waitFor();
  await page.goto(`${console_}/policies`);
  await page.getByText("permit").first().waitFor();
});

await test("everything can be read and decided without scripts", async () => {
  const id = await ask("demo.export", { dataset: "customers", rows: 8 }, "x");
  const plain = await browser.newContext({ javaScriptEnabled: false, storageState: await context.storageState() });
  const still = await plain.newPage();
  await still.goto(console_);
  await still.locator(`a[href="/requests/${id}"]`).first().click();
  await still.getByRole("button", { name: "Approve", exact: true }).click();
  await still.getByText("You approved it").waitFor();
  await plain.close();
});

await test("a form of another origin, or without its token, changes nothing", async () => {
  const id = await ask("demo.export", { dataset: "customers", rows: 9 }, "x");
  const digest = (await api(`/api/v1/requests/${id}`)).digest;
  const form = { digest, seen: "0", csrf: "0".repeat(64) };
  const wrong = await context.request.post(`${console_}/requests/${id}/approve`, { form, headers: { origin: console_ } });
  const foreign = await context.request.post(`${console_}/requests/${id}/approve`, { form, headers: { origin: "https://evil.example" } });
  ensure(wrong.status() === 403 && foreign.status() === 403, `${wrong.status()} ${foreign.status()}`);
  ensure((await api(`/api/v1/requests/${id}`)).votes.length === 0, "a vote");
  await sidecar("DELETE", `/v1/requests/${id}`);
});

await test("a passkey scope is approved with the passkey", async () => {
  const cdp = await context.newCDPSession(page);
  await cdp.send("WebAuthn.enable");
  await cdp.send("WebAuthn.addVirtualAuthenticator", { options: {
    protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true,
    isUserVerified: true, automaticPresenceSimulation: true } });
  await page.goto(env.GRANTWRIGHT_ENROL_BOB);
  await page.getByRole("button").last().click();
  await page.waitForURL((url) => !url.pathname.startsWith("/enrol"));
  const id = await ask("demo.rotate-root", {}, "the root key is old");
  await open(id);
  await press("Approve");
  await page.getByText("bob approved").first().waitFor();
  ensure((await state(id)).state === "granted", (await state(id)).state);
});

await test("headers are strict, and nothing violated the policy", async () => {
  const headers = (await context.request.get(console_)).headers();
  ensure(headers["content-security-policy"].startsWith("default-src 'none'"), "policy");
  ensure(!/unsafe|\*/.test(headers["content-security-policy"]), "a loose policy");
  ensure(headers["x-frame-options"] === "DENY" && headers["cache-control"] === "no-store", "headers");
  ensure(violations.length === 0, violations.join("\n"));
});

if (env.SCREENS) {
  mkdirSync(env.SCREENS, { recursive: true });
  const ids = [
    await ask("demo.export", { dataset: "customers", rows: 12000 }, "nightly report for the sales team", { task: "sales-digest" }),
    await ask("demo.escalate", { role: "dba" }, "restore the orders table after the failed migration"),
    await ask("demo.export", { dataset: "invoices", rows: 250 }, "audit sample"),
  ];
  const pages = [["inbox", "/"], ["request", `/requests/${ids[0]}`], ["narrow", `/requests/${ids[0]}/narrow?ttl=300s&p.rows=500`],
    ["agents", "/agents"], ["agent", "/agents/demo-agent"], ["leases", "/leases?state=all"], ["log", "/log"], ["policies", "/policies"]];
  const looks = [["light", "light", 1366, 768], ["dark", "dark", 1366, 768], ["phone", "dark", 390, 844]];
  for (const [look, colorScheme, width, height] of looks) {
    const seen = await browser.newContext({ colorScheme, viewport: { width, height }, storageState: await context.storageState(), timezoneId: "UTC" });
    const tab = await seen.newPage();
    for (const [name, path] of pages) {
      await tab.goto(console_ + path);
      const wide = await tab.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
      if (wide) console.log(`       ${name} is wider than a ${look} screen`);
      await tab.screenshot({ path: `${env.SCREENS}/${name}-${look}.png` });
    }
    await seen.close();
  }
}
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
