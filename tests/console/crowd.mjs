// One request, pressed twice by each of five people at once: each is answered clearly, one vote per
// person counts, and nothing else changes.
import { api, ask, console_, ensure, operate, sidecar, state } from "./desk.mjs";

const FIVE = ["bob", "carol", "erin", "frank", "grace"];
const DONE = { Approve: "You approved it", Deny: "You denied it", Ask: "Your question is on its way" };

/** A person's two tabs of one session, which do not load themselves again. */
async function tabs(someone, person) {
  const first = await someone(person);
  await first.context().addInitScript(() => { window.EventSource = class { addEventListener() {} }; });
  return { person, tabs: [first, await first.context().newPage()] };
}

/** Everything but the last press; what remains is that press. */
async function prepare(tab, id, verb) {
  tab.setDefaultTimeout(30000);
  await tab.goto(`${console_}/requests/${id}`);
  if (verb === "Deny") {
    await tab.keyboard.press("d");
    return tab.locator("#deny").getByRole("button", { name: "Not now", exact: true });
  }
  if (verb === "Ask") {
    await tab.keyboard.press("q");
    await tab.getByLabel("Your question").fill("which one?");
    return tab.locator("#ask").getByRole("button", { name: "Ask", exact: true });
  }
  // Somebody who may not is pressed all the same, as if their page had been made to let them.
  const button = tab.locator('form[action$="/approve"] button');
  await button.evaluate((b) => { b.disabled = false; });
  return button;
}

/** `plan`: of each person, what each of their tabs presses. All at once; what each was told. */
async function press(people, id, plan) {
  const presses = [];
  for (const { person, tabs } of people) {
    for (const [n, tab] of tabs.entries()) {
      const verb = plan[person][n];
      presses.push({ person, verb, tab, button: await prepare(tab, id, verb) });
    }
  }
  await Promise.all(presses.map(({ button }) => button.click({ noWaitAfter: true })));
  return Promise.all(presses.map(async ({ person, verb, tab }) => {
    const notice = tab.locator("main > .notice").first();
    await notice.waitFor();
    const said = (await notice.innerText()).trim();
    const done = said.startsWith(DONE[verb]);
    ensure(done || /^Refused\. \S+ \S+/.test(said), `${person}, ${verb}: ${said}`);
    ensure(!/internal|try again later|undefined/i.test(said), `${person}, ${verb}: ${said}`);
    return { person, verb, done, said };
  }));
}

/** The request's leaves of people, and that no person is there twice with the same. */
async function acts(id) {
  const { events } = await api(`/api/v1/requests/${id}/events`);
  const all = events.filter((e) => ["voted", "questioned"].includes(e.kind));
  const votes = all.filter((e) => e.kind === "voted").map((e) => `${e.human} ${e.decision}`);
  ensure(new Set(votes).size === votes.length, `a vote twice: ${votes}`);
  return { all, votes, kinds: events.map((e) => e.kind) };
}

const told = (answers) => answers.map((a) => `${a.person} ${a.verb}: ${a.said}`).join(" | ");

export async function crowd(test, someone) {
  const groups = (await operate("/api/v1/groups")).body.groups;
  const { members } = groups.find((g) => g.name === "reviewers");
  for (const id of FIVE.filter((who) => !members.includes(who))) await operate("/api/v1/people", { id });
  const grown = await operate("/api/v1/groups", { name: "reviewers", members: [...new Set([...members, ...FIVE])] });
  ensure(grown.status === 200, JSON.stringify(grown.body));
  const people = await Promise.all(FIVE.map((person) => tabs(someone, person)));
  const both = (verb) => [verb, verb];

  await test("five people approve one request twice at once: each is told so, and each counts once", async () => {
    const id = await ask("demo.escalate", { role: "crowd-same" }, "five at once");
    const plan = Object.fromEntries(FIVE.map((person) => [person, both("Approve")]));
    const answers = await press(people, id, plan);
    ensure(answers.every((a) => a.done), told(answers));
    const { votes, kinds } = await acts(id);
    ensure(JSON.stringify(votes.sort()) === JSON.stringify(FIVE.map((who) => `${who} approve`)), `${votes}`);
    const got = await state(id);
    ensure(got.state === "granted" && got.credential, JSON.stringify(got));
    const after = (await acts(id)).kinds;
    ensure(after.filter((kind) => kind === "issued").length === 1 && !kinds.includes("issued"), `${after}`);
  });

  await test("five people decide one request differently, twice each, at once: a deny ends it, and all are told", async () => {
    const id = await ask("demo.escalate", { role: "crowd-mixed" }, "five at once");
    const plan = { bob: both("Approve"), carol: both("Deny"), erin: both("Approve"), frank: both("Ask"), grace: both("Deny") };
    const answers = await press(people, id, plan);
    const { all, votes, kinds } = await acts(id);
    const denied = votes.filter((vote) => vote.endsWith("deny"));
    ensure(denied.length === 1 && /^(carol|grace) /.test(denied[0]), `${votes}`);
    ensure(all.at(-1).decision === "deny" && kinds.at(-1) === "voted", `${kinds} went on after the deny`);
    // Who was told that it was done is in the log, and nobody else is.
    for (const { person, verb, done, said } of answers.filter((a) => a.verb !== "Ask")) {
      const counted = votes.includes(`${person} ${verb.toLowerCase()}`);
      ensure(counted || !done, `${person} was told “${said}”, and no leaf says so: ${votes}`);
    }
    const shown = await api(`/api/v1/requests/${id}`);
    ensure(shown.state === "denied" && shown.votes.filter((v) => v.decision === "deny").length === 1, JSON.stringify(shown.votes));
    const got = await state(id);
    ensure(got.state === "denied" && !got.credential, JSON.stringify(got));
  });

  await test("five people press Approve and Deny at once, each on two pages: one deny counts, nothing is issued", async () => {
    const id = await ask("demo.export", { dataset: "crowd", rows: 5 }, "five at once");
    const plan = Object.fromEntries(FIVE.map((person) => [person, ["Approve", "Deny"]]));
    const answers = await press(people, id, plan);
    const { votes, kinds } = await acts(id);
    ensure(votes.filter((vote) => vote.endsWith("deny")).length === 1, `${votes}`);
    ensure(kinds.at(-1) === "voted" && !kinds.includes("issued"), `${kinds}`);
    ensure(answers.filter((a) => a.verb === "Deny" && a.done).length === 1, told(answers));
    ensure((await state(id)).state === "denied", JSON.stringify(await state(id)));
  });

  await test("who may not decide presses in the crowd, and is told why: no leaf, no vote", async () => {
    const others = await Promise.all(["alice", "dave", "olivia"].map((person) => tabs(someone, person)));
    const id = await ask("demo.escalate", { role: "crowd-refused" }, "five at once");
    const mixed = [...others, ...people.slice(0, 2)];
    const plan = Object.fromEntries(mixed.map(({ person }) => [person, both("Approve")]));
    const answers = await press(mixed, id, plan);
    for (const { person, done, said } of answers) {
      ensure(done === ["bob", "carol"].includes(person), `${person}: ${said}`);
    }
    ensure(answers.find((a) => a.person === "alice").said.includes("owns the agent"), told(answers));
    const { votes } = await acts(id);
    ensure(JSON.stringify(votes.sort()) === '["bob approve","carol approve"]', `${votes}`);
    await sidecar("DELETE", `/v1/requests/${id}`);
    for (const { tabs } of others) await tabs[0].context().close();
  });

  for (const { tabs } of people) await tabs[0].context().close();
  await operate("/api/v1/groups", { name: "reviewers", members });
}
