// Drives the console as bob would, in Debian's Chromium, against a running demo.
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { crowd } from "./crowd.mjs";
import { api, ask, authenticator, console_, decide, ensure, env, launch, link, operate, sidecar, state } from "./desk.mjs";

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
const browser = await launch();
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
// Somebody else at their own browser.
async function someone(person, options = {}) {
  const theirs = await browser.newContext({ viewport: { width: 1366, height: 768 }, timezoneId: "UTC", ...options });
  const tab = await theirs.newPage();
  tab.setDefaultTimeout(15000);
  watch(tab);
  await tab.goto(await link(person, "login"));
  return tab;
}
const open = (id) => page.goto(`${console_}/requests/${id}`);
const press = (name) => page.getByRole("button", { name, exact: true }).click();

await test("who is not signed in is led to sign in", async () => {
  const answer = await fetch(`${console_}/agents`, { redirect: "manual", headers: { accept: "text/html" } });
  ensure(answer.status === 303, `status ${answer.status}`);
  ensure(answer.headers.get("location") === "/signin?next=%2Fagents", answer.headers.get("location"));
});

await test("a link is spent by the first person who opens it, and by no program that looks ahead", async () => {
  const url = await link("carol", "login");
  const look = (method, headers) => fetch(url, { method, redirect: "manual", headers });
  for (const [method, headers] of [["HEAD", {}], ["GET", { "sec-purpose": "prefetch" }],
    ["GET", { "user-agent": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)" }]]) {
    const answer = await look(method, headers);
    ensure(answer.status === 200 && !answer.headers.get("set-cookie"), `${method} ${JSON.stringify(headers)}: ${answer.status}`);
  }
  const first = await look("GET", {});
  ensure(first.status === 303 && first.headers.get("set-cookie").startsWith("__Host-"), `first: ${first.status}`);
  ensure((await look("GET", {})).status === 410, "twice");
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

await test("the keyboard is enough: found, opened, approved; and its keys are listed", async () => {
  const id = await ask("demo.export", { dataset: "keys", rows: 11 }, "x");
  await page.goto(console_);
  await page.locator(`a[href="/requests/${id}"]`).first().waitFor();
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  for (const key of ["j", "o", "a", "d", "q", "n", "/", "?"]) {
    ensure(await page.locator("#keys kbd", { hasText: key }).count() > 0, `\`${key}\` is not listed`);
  }
  await page.keyboard.press("Escape");
  for (let n = 0; n < 60; n += 1) {
    await page.keyboard.press("j");
    if (await page.evaluate((want) => document.activeElement.getAttribute("href") === want, `/requests/${id}`)) break;
  }
  await page.keyboard.press("o");
  await page.waitForURL(`**/requests/${id}`, { waitUntil: "load" });
  await page.keyboard.press("a");
  ensure((await state(id)).state !== "granted", "one key approved");
  const [focused, outline] = await page.evaluate(() =>
    [document.activeElement.textContent, getComputedStyle(document.activeElement).outlineStyle]);
  ensure(focused === "Approve" && outline !== "none", `the focus is on ${focused}, outline ${outline}`);
  await page.keyboard.press("Enter");
  await page.getByText("You approved it").waitFor();
  ensure((await state(id)).state === "granted", "not granted");
});

await test("deny with one tap; the agent is told", async () => {
  const id = await ask("demo.export", { dataset: "customers", rows: 1001 }, "x");
  await open(id);
  await page.keyboard.press("d");
  await press("Too much");
  await page.getByText("You denied it").waitFor();
  const told = await state(id);
  ensure(told.state === "denied" && told.reason.includes("too much"), JSON.stringify(told));
});

await test("looks wrong: security is told at once, the owner how it ended, each at their own inbox", async () => {
  const [dave, alice] = [await someone("dave"), await someone("alice")];
  ensure(await dave.getByRole("alert").count() === 0, "an alarm before there is one");
  const id = await ask("demo.export", { dataset: "payroll", rows: 13 }, "please");
  await alice.goto(`${console_}/requests/${id}`);
  ensure(await alice.getByRole("button", { name: "Approve", exact: true }).isDisabled(), "the owner may approve");
  await alice.getByText("owns the agent").waitFor();
  await alice.goto(console_);
  await open(id);
  await page.keyboard.press("d");
  await page.getByLabel(/In your words/).fill("nobody here <i>exports</i> payroll");
  await press("Looks wrong");
  await page.getByText("You denied it").waitFor();
  const alarm = dave.getByRole("alert");
  await alarm.getByText("nobody here <i>exports</i> payroll").waitFor();
  ensure(await alarm.locator(`a[href="/requests/${id}"]`).count() === 1, "no way to it");
  await alice.getByText("Your agents: how it ended").waitFor();
  const told = alice.locator("tr", { has: alice.locator(`a[href="/requests/${id}"]`) });
  await told.getByText("denied by bob").waitFor();
  ensure(await alice.getByRole("alert").count() === 0, "the owner sees what security sees");
  await page.getByText("nobody here <i>exports</i> payroll").waitFor();
  for (const tab of [dave, alice]) await tab.context().close();
});

await test("the very session policy is shown before approving, and is what STS gets", async () => {
  const id = await ask("aws.s3-export", { bucket: "demo", prefix: "reports/2026/" }, "x");
  await open(id);
  const shown = JSON.parse(await page.locator(".facts pre").last().innerText());
  ensure(JSON.stringify(shown).includes("arn:aws:s3:::demo/reports/2026/*"), JSON.stringify(shown));
  ensure(await page.getByText("What demo-agent did before").count() === 1, "no history");
  await page.locator(".facts summary").click();
  await page.locator(".facts details pre", { hasText: "permit" }).waitFor();
  await press("Approve");
  await page.getByText("You approved it").waitFor();
  ensure((await state(id)).state === "granted", "not granted");
  const got = JSON.parse(readFileSync(env.STS_SEEN, "utf8"));
  const held = (value, part) => JSON.stringify(value) === JSON.stringify(part)
    || (value && typeof value === "object" && Object.values(value).some((v) => held(v, part)));
  ensure(held(shown, JSON.parse(got.Policy)), `shown ${JSON.stringify(shown)}\nminted ${got.Policy}`);
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
  const other = await decide("approve", id);
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
  await page.getByLabel(/Why, for the agent/).fill("500 are enough for a sample");
  await press("Narrow and approve");
  await page.getByText("You narrowed it").waitFor();
  ensure(before !== await page.locator("article").getAttribute("data-digest"), "the same digest");
  ensure((await page.locator("h1").textContent()).includes("500"), "the old headline");
  await page.getByText("500 are enough for a sample").first().waitFor();
  const got = await state(id);
  ensure(got.state === "granted", got.state);
  ensure(/rows from 9000 to 500 \(“500 are enough for a sample”\)/.test(JSON.stringify(got)), JSON.stringify(got));
});

await test("the whole way: asked, answered, narrowed by one, approved by another, and the agent has less", async () => {
  const carol = await someone("carol");
  const id = await ask("demo.escalate", { role: "auditor" }, "look at the books");
  await open(id);
  await page.keyboard.press("q");
  await page.getByLabel("Your question").fill("for how long?");
  await page.locator("#ask").getByRole("button", { name: "Ask", exact: true }).click();
  await page.getByText("not answered yet").waitFor();
  await carol.goto(`${console_}/requests/${id}`);
  ensure(await carol.getByRole("button", { name: "Approve", exact: true }).isDisabled(), "another may approve while a question is open");
  await sidecar("POST", `/v1/requests/${id}/answer`, { text: "five minutes" });
  for (const tab of [page, carol]) await tab.getByText("five minutes").first().waitFor();
  await page.goto(`${console_}/requests/${id}/narrow`);
  await page.getByLabel("lifetime").selectOption("300s");
  await press("Narrow and approve");
  await page.getByText("You narrowed it").waitFor();
  // Carol's open page changes by itself, and its button rests for a moment.
  await carol.getByText(/15 min → 5 min/).first().waitFor();
  await carol.getByText("bob approved").first().waitFor();
  await carol.getByRole("button", { name: "Approve", exact: true }).click();
  await carol.getByText("You approved it").waitFor();
  const got = await state(id);
  ensure(got.state === "granted" && got.credential.token, got.state);
  const left = (new Date(got.expires_at) - Date.now()) / 1000;
  ensure(left > 0 && left <= 301 && JSON.stringify(got).includes("lifetime from 900 s to 300 s"), JSON.stringify(got));
  await carol.context().close();
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
  await decide("narrow", id, { ttl: "5m" });
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

// Text against what is behind it, as WCAG 2.2 computes it; names of controls; one headline; no page
// wider than its screen.
function faults() {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  // A page has few colours, and drawing one takes long.
  const drawn = new Map();
  const rgba = (color) => {
    if (!drawn.has(color)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      drawn.set(color, [...canvas.getImageData(0, 0, 1, 1).data].map((v, n) => (n === 3 ? v / 255 : v)));
    }
    return drawn.get(color);
  };
  const over = (top, under) => [0, 1, 2].map((n) => top[n] * top[3] + under[n] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const layer = rgba(getComputedStyle(e).backgroundColor);
      layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), rgba(getComputedStyle(document.body).backgroundColor));
  };
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility() || element.closest(":disabled, option, datalist, .skip")) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const [a, b] = [light(over(rgba(style.color), ground)), light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    texts += 1;
    if (ratio < (large ? 3 : 4.5)) found.push(`contrast ${ratio.toFixed(2)} of “${node.data.trim().slice(0, 40)}”`);
  }
  for (const control of document.querySelectorAll("button, a[href], input:not([type=hidden]), select, textarea")) {
    const name = control.getAttribute("aria-label") || control.labels?.[0]?.textContent || control.textContent || control.title;
    if (!name?.trim()) found.push(`no name: ${control.outerHTML.slice(0, 80)}`);
    if (control.matches("input:not([type=submit]), select, textarea") && !control.labels?.length && !control.hasAttribute("aria-label")) found.push(`no label: ${control.outerHTML.slice(0, 80)}`);
    const box = control.getBoundingClientRect();
    // WCAG 2.2, 2.5.8: 24 × 24, save links within text.
    const inline = control.matches("a") && getComputedStyle(control).display === "inline";
    if (box.width && !inline && !control.matches(".skip, [type=checkbox]") && box.height < 24) found.push(`small: ${control.outerHTML.slice(0, 80)}`);
  }
  // What can be pressed is an element that says so by itself, or has a role.
  for (const odd of document.querySelectorAll("[onclick], [tabindex]")) {
    if (!odd.matches("a[href], button, summary, main, [role]")) found.push(`no role: ${odd.outerHTML.slice(0, 80)}`);
  }
  for (const landmark of document.querySelectorAll("nav, [role=dialog], [role=search] input")) {
    const named = landmark.matches("input") ? landmark.labels.length : landmark.matches("[aria-label], [aria-labelledby]");
    if (!named) found.push(`no name: ${landmark.outerHTML.slice(0, 80)}`);
  }
  if (document.querySelectorAll("h1").length !== 1) found.push("not one headline");
  if (!document.documentElement.lang || !document.querySelector("main")) found.push("no language, or no main");
  for (const header of document.querySelectorAll("th")) if (!header.textContent.trim()) found.push("a column without a name");
  if (document.documentElement.scrollWidth > innerWidth) found.push(`wider than the screen: ${document.documentElement.scrollWidth}`);
  return { texts, found };
}

await test("contrast, names, sizes and widths, on every page, light and dark, desk and phone", async () => {
  const id = await ask("demo.export", { dataset: "customers", rows: 21000 }, "x", { task: "nightly" });
  const ended = await ask("demo.export", { dataset: "customers", rows: 21001 }, "x");
  await decide("deny", ended, { reason: "no" });
  const paths = ["/", `/requests/${id}`, `/requests/${ended}`, `/requests/${id}?done=approve`, `/requests/${id}/narrow?ttl=300s&p.rows=500`,
    "/agents", "/agents/demo-agent", "/leases", "/leases?state=all", "/log", "/log?agent=demo-agent", "/policies", "/attention",
    "/account", `/?of=${id}`, "/?from=0-0", "/nothing-here"];
  // Who looks after everybody has more to read.
  const dave = await someone("dave");
  const [mine, daves] = [await context.storageState(), await dave.context().storageState()];
  await dave.context().close();
  const wrong = new Map();
  const blame = (where, { found }) => { for (const fault of found) wrong.set(fault, [...(wrong.get(fault) ?? []), where]); };
  // Each page is loaded once for a scheme, and looked at in every size.
  for (const colorScheme of ["light", "dark"]) {
    const sizes = async (tab, where) => {
      let texts = Infinity;
      for (const [width, height] of [[1366, 768], [390, 844], [320, 640]]) {
        await tab.setViewportSize({ width, height });
        const seen = await tab.evaluate(faults);
        texts = Math.min(texts, seen.texts);
        blame(`${where} ${colorScheme} ${width}`, seen);
      }
      return texts;
    };
    const security = await browser.newContext({ colorScheme, storageState: daves });
    const theirs = await security.newPage();
    for (const path of ["/", "/attention"]) {
      await theirs.goto(console_ + path);
      await sizes(theirs, `dave's ${path}`);
    }
    await security.close();
    const seen = await browser.newContext({ colorScheme, storageState: mine });
    const tab = await seen.newPage();
    watch(tab);
    for (const path of paths) {
      await tab.goto(console_ + path);
      ensure(await sizes(tab, path) > 3, `${path} is empty`);
    }
    await tab.goto(`${console_}/requests/${id}`);
    for (const key of ["d", "q"]) {
      await tab.keyboard.press(key);
      await sizes(tab, `form ${key}`);
      await tab.keyboard.press("Escape");
    }
    await seen.close();
  }
  for (const path of ["/signin", new URL(await link("carol", "enrol")).pathname]) {
    const stranger = await (await browser.newContext({ colorScheme: "dark", viewport: { width: 390, height: 844 } })).newPage();
    await stranger.goto(console_ + path);
    blame(path, await stranger.evaluate(faults));
    await stranger.context().close();
  }
  await sidecar("DELETE", `/v1/requests/${id}`);
  const list = [...wrong].map(([fault, places]) => `${fault} (${places.length} times, first at ${places[0]})`);
  ensure(list.length === 0, list.slice(0, 20).join("; "));
});

await test("every control is reached by Tab, in the order of the page, and shows that it is there", async () => {
  const id = await ask("demo.export", { dataset: "tabs", rows: 12 }, "x");
  const tab = await someone("bob");
  // A page that changes by itself while it is walked would be another page.
  await tab.context().addInitScript(() => { window.EventSource = class { addEventListener() {} }; });
  for (const path of ["/", `/requests/${id}`, `/requests/${id}/narrow`, "/log", "/attention", "/leases", "/account"]) {
    await tab.goto(console_ + path);
    const wanted = await tab.evaluate(() => {
      const some = [...document.querySelectorAll("a[href], button, summary, input:not([type=hidden]), select, textarea")];
      const there = some.filter((e) => !e.disabled && e.checkVisibility() && e.tabIndex >= 0);
      there.forEach((e, n) => { e.dataset.walked = n; });
      return there.length;
    });
    const met = [];
    // A date has parts of its own, each of which takes a Tab.
    for (let n = 0; n < wanted + 40 && new Set(met).size < wanted; n += 1) {
      await tab.keyboard.press("Tab");
      const [at, shown] = await tab.evaluate(() => {
        const e = document.activeElement;
        const style = getComputedStyle(e);
        return [e.dataset.walked ?? null, style.outlineStyle !== "none" || style.boxShadow !== "none"];
      });
      if (at === null) continue;
      ensure(shown, `${path}: the focus on control ${at} is not seen`);
      if (met.at(-1) !== Number(at)) met.push(Number(at));
    }
    ensure(new Set(met).size === wanted, `${path}: ${new Set(met).size} of ${wanted} reached`);
    ensure(met.every((at, n) => n === 0 || at > met[n - 1]), `${path}: not in the page's order: ${met}`);
  }
  await tab.context().close();
  await sidecar("DELETE", `/v1/requests/${id}`);
});

await test("the first page weighs less than 100 kB with everything it loads", async () => {
  const fresh = await browser.newContext({ storageState: await context.storageState() });
  const tab = await fresh.newPage();
  const loads = [];
  tab.on("response", (r) => { if (!r.url().includes("/live")) loads.push(r.body().then((b) => b.length, () => 0)); });
  await tab.goto(console_, { waitUntil: "load" });
  const bytes = (await Promise.all(loads)).reduce((a, b) => a + b, 0);
  ensure(loads.length >= 4 && bytes <= 100_000, `${bytes} bytes in ${loads.length}`);
  await fresh.close();
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

await test("what one agent asks for one task is one block: the task said once, each digest decided by itself", async () => {
  const more = { task: "close the <b>quarter</b>" };
  const ids = [];
  for (const rows of [31, 32, 33]) ids.push(await ask("demo.export", { dataset: "ledger", rows }, `part ${rows}`, more));
  const other = await ask("demo.export", { dataset: "alone", rows: 34 }, "x", { task: "another" });
  const has = (tab, id) => tab.locator("li.group", { has: tab.locator(`a[href="/requests/${id}"]`) });
  // Read without scripts: the block is there, with all of it.
  const plain = await browser.newContext({ javaScriptEnabled: false, storageState: await context.storageState() });
  const still = await plain.newPage();
  await still.goto(console_);
  ensure(await has(still, other).count() === 0, "one alone is in a block");
  ensure((await has(still, ids[0]).innerText()).split("close the <b>quarter</b>").length === 2, "the task is not said once");
  for (const id of ids) {
    ensure(await has(still, id).count() === 1, "not in a block");
    const { digest } = await api(`/api/v1/requests/${id}`);
    ensure(await still.locator(`li.group input[name=digest][value="${digest}"]`).count() === 1, "no decision for its digest");
  }
  // One is decided there, also without scripts; the others wait on.
  await has(still, ids[0]).locator(`form[action="/requests/${ids[0]}/approve"] button`).click();
  await still.getByText("You approved it").waitFor();
  ensure(new URL(still.url()).pathname === "/", still.url());
  await plain.close();
  ensure((await state(ids[0])).state === "granted", "not granted");
  for (const id of ids.slice(1)) ensure((await api(`/api/v1/requests/${id}`)).votes.length === 0, "another was voted on");
  // The page that was open all the while knows.
  await page.goto(console_);
  await page.locator("li.group", { hasText: "2 requests of" }).first().waitFor();
  await decide("deny", ids[1], { reason: "no" });
  await page.locator(`li.group a[href="/requests/${ids[1]}"]`).first().waitFor({ state: "detached" });
  for (const id of [...ids.slice(2), other]) await sidecar("DELETE", `/v1/requests/${id}`);
});

await test("of a task with many requests the inbox shows the first, and leads to the others: each is decided there", async () => {
  const ids = [];
  for (let rows = 41; rows <= 46; rows += 1) ids.push(await ask("demo.export", { dataset: "flood", rows }, `part ${rows}`, { task: "a flood" }));
  const plain = await browser.newContext({ javaScriptEnabled: false, storageState: await context.storageState() });
  const still = await plain.newPage();
  await still.goto(console_);
  const block = still.locator("li.group", { has: still.locator(`a[href="/requests/${ids[0]}"]`) });
  ensure(await block.locator("a[href^='/requests/'].open").count() === 3, await block.innerText());
  await block.getByRole("link", { name: "and 3 more of this task" }).click();
  for (const id of ids) ensure(await still.locator(`a.open[href="/requests/${id}"]`).count() === 1, `${id} is not there`);
  await still.locator(`form[action="/requests/${ids[5]}/approve"] button`).click();
  await still.getByText("You approved it").waitFor();
  // Back where it was pressed; what was decided is no longer there.
  ensure(new URL(still.url()).searchParams.get("of") === ids[0], still.url());
  await plain.close();
  ensure((await state(ids[5])).state === "granted", "not granted");
  // With scripts the page of a task changes by itself.
  await page.goto(`${console_}/?of=${ids[0]}`);
  await page.locator(`a.open[href="/requests/${ids[4]}"]`).waitFor();
  await decide("deny", ids[4], { reason: "no" });
  await page.locator(`a.open[href="/requests/${ids[4]}"]`).waitFor({ state: "detached" });
  for (const id of ids.slice(0, 4)) await sidecar("DELETE", `/v1/requests/${id}`);
});

// A page whose clock stands still: how fast this machine is does not matter.
async function stopped(person, path) {
  const tab = await someone(person);
  await tab.clock.install();
  await tab.goto(console_ + path);
  await tab.clock.pauseAt(Date.now() + 5000);
  return tab;
}

await test("a press on Approve that bounces does not take the approval back", async () => {
  const id = await ask("demo.escalate", { role: "bounce" }, "x");
  const tab = await stopped("bob", `/requests/${id}`);
  // The page that says so listens, and first of all looks whether it missed something.
  const looks = tab.waitForResponse(async (r) => r.request().resourceType() === "fetch"
    && r.url().endsWith(`/requests/${id}`) && (await r.request().allHeaders()).referer?.includes("done=approve"));
  await tab.getByRole("button", { name: "Approve", exact: true }).dblclick();
  await tab.getByText("You approved it").waitFor();
  const back = (how) => tab.locator(`button:${how}`, { hasText: "Withdraw approval" });
  await back("disabled").waitFor();
  await (await looks).finished();
  await tab.clock.runFor(600);
  ensure(await back("enabled").count() === 0, "looking again ends the rest");
  // Somebody else's vote changes the page: it rests anew.
  await decide("approve", id);
  const carols = tab.getByText("carol approved").first();
  for (let n = 0; n < 300 && !await carols.isVisible(); n += 1) {
    await tab.clock.runFor(50);
    await new Promise((done) => setTimeout(done, 100));
  }
  ensure(await carols.isVisible(), "carol's vote is not shown");
  ensure(await back("enabled").count() === 0, "a change of the page ends the rest");
  await tab.clock.runFor(5000);
  await back("enabled").waitFor();
  const votes = (await api(`/api/v1/requests/${id}`)).votes;
  ensure(votes.length === 2 && votes.every((v) => v.decision === "approve"), JSON.stringify(votes));
  ensure((await state(id)).state === "granted", "withdrawn");
  await tab.context().close();
});

await test("a press in a block that bounces decides nothing that slid under the pointer", async () => {
  const ids = [];
  for (const rows of [51, 52, 53]) ids.push(await ask("demo.export", { dataset: "slide", rows }, `part ${rows}`, { task: "slides" }));
  const tab = await stopped("bob", `/?of=${ids[0]}`);
  const button = (id) => tab.locator(`form[action="/requests/${id}/approve"] button`);
  const box = await button(ids[0]).boundingBox();
  await button(ids[0]).dblclick();
  await tab.getByText("You approved it").waitFor();
  for (const id of ids.slice(1)) await tab.locator(`form[action="/requests/${id}/approve"] button:disabled`).waitFor();
  await tab.mouse.click(box.x + box.width / 2, box.y + box.height / 2);
  await tab.clock.runFor(5000);
  await tab.locator(`form[action="/requests/${ids[1]}/approve"] button:enabled`).waitFor();
  for (const id of ids.slice(1)) ensure((await api(`/api/v1/requests/${id}`)).votes.length === 0, "another was decided");
  await tab.context().close();
  ensure((await state(ids[0])).state === "granted", "not granted");
  for (const id of ids.slice(1)) await sidecar("DELETE", `/v1/requests/${id}`);
});

await crowd(test, someone);

// The demo's own files of policy and scopes.
const texts = (name) => {
  const folder = `${env.GRANTWRIGHT_HUMANS}/../${name}`;
  return Object.fromEntries(readdirSync(folder).map((f) => [f, readFileSync(`${folder}/${f}`, "utf8")]));
};

await test("two steps: a fact of the request is typed before Approve counts, here and in a block", async () => {
  const [policies, scopes] = [texts("policy"), texts("scopes")];
  const stepped = Object.fromEntries(Object.entries(scopes).map(([name, text]) =>
    [name, text.replace('name = "demo.export"', 'name = "demo.export"\nconfirm = "dataset"')]));
  const loaded = await operate("/api/v1/policy", { policies, scopes: stepped });
  ensure(loaded.status === 200, JSON.stringify(loaded.body));
  try {
    const ids = [];
    for (const rows of [61, 62]) ids.push(await ask("demo.export", { dataset: "payments", rows }, "x", { task: "two steps" }));
    await page.goto(console_);
    const block = page.locator("li.group", { has: page.locator(`a[href="/requests/${ids[0]}"]`) });
    await block.waitFor();
    ensure(await block.getByRole("button", { name: /^Approve/ }).count() === 0, "one press is enough in the inbox");
    await open(ids[0]);
    const votes = async () => (await api(`/api/v1/requests/${ids[0]}`)).votes.length;
    // Without a fact nothing is sent; with a wrong one nothing is decided.
    await press("Approve");
    ensure(new URL(page.url()).pathname === `/requests/${ids[0]}` && await votes() === 0, "sent without");
    await page.getByLabel(/To approve, type the value of/).fill("payment");
    await press("Approve");
    await page.getByRole("alert").getByText("Refused").waitFor();
    ensure(await votes() === 0, "a wrong fact counts");
    await page.getByLabel(/To approve, type the value of/).fill("payments");
    await press("Approve");
    await page.getByText("You approved it").waitFor();
    ensure((await state(ids[0])).state === "granted", "not granted");
    await sidecar("DELETE", `/v1/requests/${ids[1]}`);
  } finally {
    await operate("/api/v1/policy", { policies, scopes });
  }
});

await test("what an agent handed on is listed with its chain and bounds, and ended by who may", async () => {
  const worker = { name: "worker", owner: "bob", team: "data", environment: "demo", model: "demo", model_version: "1" };
  const registered = await operate("/api/v1/agents", worker);
  ensure([200, 201].includes(registered.status), JSON.stringify(registered.body));
  const scopes = { "demo.export": { params: { dataset: "handed", rows: 50 }, ttl: "5m" }, "demo.read": {} };
  const made = await sidecar("POST", "/v1/delegations", { to: "worker", scopes, ttl: "30m" });
  ensure(made.status === 201, JSON.stringify(made.body));
  const { delegation_id: id } = made.body;
  await page.goto(`${console_}/agents`);
  await page.getByRole("link", { name: "Delegations" }).click();
  const row = (tab) => tab.locator("tr", { hasText: id });
  for (const part of ["demo-agent → worker", "demo.export", "dataset handed", "rows 50", "5 min"]) {
    const text = (await row(page).textContent()).replace(/\s+/g, " ");
    ensure(text.includes(part), `${part}: ${text}`);
  }
  const carol = await someone("carol");
  await carol.goto(`${console_}/delegations`);
  await row(carol).waitFor();
  ensure(await row(carol).getByRole("button").count() === 0, "carol owns none of its agents");
  await carol.context().close();
  await row(page).getByRole("button", { name: `End now: delegation ${id}` }).click();
  await page.getByRole("status").getByText("has ended").waitFor();
  ensure(await row(page).count() === 0, "it is still among those that live");
  await page.getByRole("link", { name: "All of the last day" }).click();
  await row(page).getByText("ended").first().waitFor();
  const listed = (await api("/api/v1/delegations?state=all")).delegations.find((d) => d.delegation_id === id);
  ensure(listed.state === "ended", JSON.stringify(listed));
});

await test("a passkey scope is approved with the passkey", async () => {
  await authenticator(context, page);
  await page.goto(env.GRANTWRIGHT_ENROL_BOB);
  await page.getByRole("button").last().click();
  await page.waitForURL((url) => !url.pathname.startsWith("/enrol"));
  const id = await ask("demo.rotate-root", {}, "the root key is old");
  await open(id);
  await press("Approve");
  await page.getByText("bob approved").first().waitFor();
  ensure((await state(id)).state === "granted", (await state(id)).state);
});

await test("a quorum of two passkeys of two browsers is proven from the database alone", async () => {
  const [policies, scopes] = [texts("policy"), texts("scopes")];
  for (const name of Object.keys(policies)) {
    policies[name] = policies[name].split("permit").map((p) => (p.includes("passkey") ? p.replace('@quorum("1")', '@quorum("2")') : p)).join("permit");
  }
  const loaded = await operate("/api/v1/policy", { policies, scopes });
  ensure(loaded.status === 200, JSON.stringify(loaded.body));
  const carol = await someone("carol");
  await authenticator(carol.context(), carol);
  await carol.goto(await link("carol", "enrol"));
  await carol.getByRole("button", { name: "Enrol a passkey" }).click();
  await carol.waitForURL("**/account");
  const id = await ask("demo.rotate-root", {}, "again", { idempotency_key: "two-passkeys" });
  for (const [tab, who] of [[page, "bob"], [carol, "carol"]]) {
    await tab.goto(`${console_}/requests/${id}`);
    await tab.getByRole("button", { name: "Approve", exact: true }).click();
    await tab.getByText(`${who} approved`).first().waitFor();
  }
  ensure((await state(id)).state === "granted", (await state(id)).state);
  const verify = ["audit", "verify", "--json", "--store", env.GRANTWRIGHT_STORE, "--vkey", env.GRANTWRIGHT_LOG_VKEY];
  const report = JSON.parse(execFileSync(env.GRANTWRIGHT_BIN, verify, { env: {}, encoding: "utf8" }));
  ensure(report.ok === true, JSON.stringify(report.findings));
  const told = JSON.parse(execFileSync(env.GRANTWRIGHT_BIN, ["audit", "show", id, "--json"], { env, encoding: "utf8" }));
  const signed = told.events.filter((e) => e.kind === "voted" && JSON.stringify(e).includes("credential_id"));
  ensure(signed.length === 2, `${signed.length} signed votes`);
  await carol.context().close();
});

await test("headers are strict, and nothing violated the policy", async () => {
  const headers = (await context.request.get(console_)).headers();
  ensure(headers["content-security-policy"].startsWith("default-src 'none'"), "policy");
  ensure(!/unsafe|\*/.test(headers["content-security-policy"]), "a loose policy");
  ensure(headers["x-frame-options"] === "DENY" && headers["cache-control"] === "no-store", "headers");
  ensure(violations.length === 0, violations.join("\n"));
});

await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
