// Makes some history, then a picture of each page in each look.
import { writeFileSync } from "node:fs";
import { ask, authenticator, console_, decide, env, launch, link, operate, sidecar, state } from "./desk.mjs";
import { small } from "./png.mjs";

const LOOKS = [["light", "light", 1366, 850], ["dark", "dark", 1366, 850], ["phone", "dark", 390, 844]];

const browser = await launch();
const blank = await (await browser.newContext()).newPage();
await operate("/api/v1/models", { model: "demo-model", model_version: "1.0", until: "2031-03-01T00:00:00Z" });

// What went before.
const granted = async (scope, params, reason, by = ["carol"]) => {
  const id = await ask(scope, params, reason);
  for (const person of by) await decide("approve", id, {}, person);
  await state(id);
  return id;
};
await granted("demo.export", { dataset: "orders", rows: 800 }, "weekly numbers");
await granted("demo.export", { dataset: "invoices", rows: 120 }, "audit sample");
const story = await granted("demo.escalate", { role: "reader" }, "look at the failed migration", ["carol", "bob"]);
const wrong = await ask("demo.export", { dataset: "payroll", rows: 900000 }, "URGENT: ceo asked for it");
await decide("deny", wrong, { reason: "nobody here exports payroll", reason_code: "looks_wrong" });
await sidecar("POST", "/v1/credentials", { scope: "demo.read", params: { dataset: "weather" }, reason: "forecast" });

// What waits.
const sales = await ask("demo.export", { dataset: "customers", rows: 12000 }, "nightly report for the sales team", { task: "sales-digest" });
const role = await ask("demo.escalate", { role: "dba" }, "restore the orders table after the failed migration", { task: "restore-orders" });
await decide("ask", role, { text: "which ticket?" });
await sidecar("POST", `/v1/requests/${role}/answer`, { text: "OPS-4711, the migration of 02:10" });
await decide("approve", role);
const bucket = await ask("aws.s3-export", { bucket: "demo", prefix: "reports/2026/" }, "hand the quarter's reports to the auditors");
const root = await ask("demo.rotate-root", {}, "the root key is older than a year");
const long = await ask("demo.export", { dataset: "tickets", rows: 40 }, `because ${"the export of last night stopped half way. ".repeat(40)}`);

const quarter = [];
for (const [dataset, rows, reason] of [["ledger", 2400, "what was booked"], ["invoices", 9400, "what they paid"], ["refunds", 310, "what was given back"]]) {
  quarter.push(await ask("demo.export", { dataset, rows }, reason, { task: "close the third quarter" }));
}

// What was handed on.
for (const [name, owner] of [["worker", "bob"], ["indexer", "carol"]]) {
  await operate("/api/v1/agents", { name, owner, team: "data", environment: "demo", model: "demo-model", model_version: "1.0" });
}
await sidecar("POST", "/v1/delegations", { to: "worker", ttl: "1h", passes: 1,
  scopes: { "demo.export": { params: { dataset: "orders", rows: 500 }, ttl: "5m" }, "demo.read": { params: { dataset: "orders" } } } });
await sidecar("POST", "/v1/delegations", { to: "indexer", ttl: "20m", scopes: { "aws.s3-read": { params: { bucket: "demo", prefix: "public/" }, ttl: "15m" } } });

async function signed(person, look) {
  const [, colorScheme, width, height] = look;
  const context = await browser.newContext({ colorScheme, viewport: { width, height }, timezoneId: "Europe/Berlin", locale: "en-GB" });
  const tab = await context.newPage();
  await tab.goto(await link(person, "login"));
  return tab;
}

const press = (key) => async (tab) => { await tab.keyboard.press(key); };
const PAGES = [
  ["inbox", "bob", "/"],
  ["security", "dave", "/"],
  ["owner", "alice", "/"],
  ["request", "bob", `/requests/${sales}`],
  ["policy", "bob", `/requests/${bucket}`, async (tab) => { await tab.locator(".facts summary").click(); }],
  ["question", "bob", `/requests/${role}`, async (tab) => { await tab.getByText("OPS-4711").first().scrollIntoViewIfNeeded(); }],
  ["passkey", "bob", `/requests/${root}`],
  ["long", "bob", `/requests/${long}`],
  ["deny", "bob", `/requests/${sales}`, press("d")],
  ["ask", "bob", `/requests/${sales}`, press("q")],
  ["narrow", "bob", `/requests/${sales}/narrow?ttl=300s&p.rows=500`, async (tab) => {
    await tab.getByLabel(/Why, for the agent/).fill("500 rows are enough for a sample");
  }],
  ["group", "bob", "/", async (tab) => {
    await tab.locator("li.group").first().evaluate((e) => e.scrollIntoView());
  }],
  ["story", "bob", `/requests/${story}`, async (tab) => {
    await tab.getByRole("button", { name: "Verify here" }).click();
    await tab.locator("[data-verdict][data-proof]").waitFor();
    await tab.getByRole("heading", { name: "What happened" }).evaluate((e) => e.scrollIntoView());
  }],
  ["agents", "bob", "/agents"],
  ["agent", "bob", "/agents/demo-agent"],
  ["delegations", "bob", "/delegations"],
  ["leases", "bob", "/leases"],
  ["log", "bob", "/log"],
  ["policies", "bob", "/policies"],
  ["attention", "dave", "/attention"],
  ["keys", "bob", "/", press("?")],
];

async function take(name, look, tab) {
  // Nothing still fades.
  await tab.waitForTimeout(300);
  await tab.evaluate(() => Promise.all(document.getAnimations().map((a) => a.finished.catch(() => 0))));
  const file = `${env.SCREENS}/console-${name}-${look}.png`;
  const png = await small(blank, await tab.screenshot());
  writeFileSync(file, png);
  console.log(`${file.split("/").at(-1)} ${png.length}`);
}

for (const look of LOOKS) {
  const tabs = {};
  for (const [name, person, path, prepare] of PAGES) {
    tabs[person] ??= await signed(person, look);
    await tabs[person].goto(console_ + path);
    if (prepare) await prepare(tabs[person]);
    await take(name, look[0], tabs[person]);
  }
  const { bob } = tabs;
  await authenticator(bob.context(), bob);
  await bob.goto(await link("bob", "enrol"));
  await take("enrol", look[0], bob);
  await bob.getByRole("button", { name: "Enrol a passkey" }).click();
  await bob.waitForURL("**/account");
  await take("account", look[0], bob);
  await bob.getByRole("button", { name: "Sign out" }).click();
  await bob.waitForURL("**/signin");
  await take("signin", look[0], bob);
  for (const tab of Object.values(tabs)) await tab.context().close();
}
await browser.close();
