// What the console adds where scripts run: local times, keys, live updates, proofs. Everything can
// be read, and nearly everything done, without it. Nothing here makes HTML of text: pages come from
// the server whole, and everything else goes through textContent.
"use strict";

const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// ---- Times: in the reader's zone, absolute and relative. ----

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

function relative(ms) {
  const s = Math.abs(Math.trunc(ms / 1000));
  const words = s < 60 ? `${s} s` : s < 3600 ? `${Math.trunc(s / 60)} min`
    : s < 86400 ? `${Math.trunc(s / 3600)} h ${Math.trunc(s / 60) % 60} min`
    : `${Math.trunc(s / 86400)} d`;
  return s === 0 ? "now" : ms < 0 ? `${words} ago` : `in ${words}`;
}

function tellTimes() {
  const now = Date.now();
  const today = day.format(now);
  for (const time of all("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const date = day.format(at);
    time.title = time.dateTime;
    time.textContent = `${date === today ? "" : `${date} `}${clock.format(at)} (${relative(at - now)})`;
  }
  for (const left of all("[data-left]")) {
    const s = Math.max(0, Math.trunc((new Date(left.dataset.left) - now) / 1000));
    left.textContent = s === 0 ? "time is over" : s < 60 ? `${s} s left`
      : s < 7200 ? `${Math.trunc(s / 60)} min left` : `${Math.trunc(s / 3600)} h left`;
  }
}

// ---- Live: a stream says that something changed; the page then loads itself again. ----

const regions = () => all("[data-live]");
let original = new Map();
const remember = () => { original = new Map(regions().map((r) => [r.dataset.live, said(r)])); };

// What a region says, without the times that pass by themselves.
function said(region) {
  const copy = region.cloneNode(true);
  for (const passing of all("time", copy)) passing.remove();
  for (const passing of all("[data-left]", copy)) passing.textContent = "";
  return copy.outerHTML;
}

function isBusy() {
  const active = document.activeElement;
  const typing = active && /^(INPUT|TEXTAREA|SELECT)$/.test(active.tagName);
  const typed = all("textarea, input:not([type=hidden])", one("main"))
    .some((field) => field.value !== field.defaultValue);
  return typing || typed || one(":popover-open") !== null;
}

async function load(url) {
  const answer = await fetch(url, { headers: { accept: "text/html" }, credentials: "same-origin" });
  if (answer.redirected || !answer.ok) throw new Error(`status ${answer.status}`);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

let loading = false, again = false;
async function look(force = false) {
  if (loading && !force) { again = true; return; }
  loading = true;
  try {
    const url = new URL(location.href);
    url.searchParams.delete("done");
    show(await load(url), force);
  } catch {
    // The next change, or the next stream, looks again.
  }
  // However fast things change, a page loads itself about once a second.
  setTimeout(() => {
    loading = false;
    if (again) { again = false; look(); }
  }, 1000);
}

function show(fresh, force) {
  const changed = [];
  for (const old of regions()) {
    const next = one(`[data-live="${old.dataset.live}"]`, fresh);
    if (next && said(next) !== original.get(old.dataset.live)) changed.push([old, next]);
  }
  if (changed.length === 0) return;
  if (!force && isBusy()) return offer();
  one(".again")?.remove();
  const focused = document.activeElement?.getAttribute("href");
  const key = document.activeElement?.dataset.key;
  for (const [old, next] of changed) {
    original.set(next.dataset.live, said(next));
    const replaced = document.importNode(next, true);
    const known = new Set(all("a.open", old).map((a) => a.getAttribute("href")));
    old.replaceWith(replaced);
    for (const row of all("a.open", replaced)) {
      if (!known.has(row.getAttribute("href"))) row.closest("li").classList.add("fresh");
    }
    for (const sheet of all(".decide > .sheet", replaced)) sheet.classList.add("fresh");
    // Nobody may press a button that changed under the finger, nor sooner because the page changed again.
    if (old.dataset.version !== replaced.dataset.version) rest();
    hold(replaced);
    if (key && old.dataset.version === replaced.dataset.version) one(`[data-key="${key}"]`, replaced)?.focus();
  }
  document.title = fresh.title;
  if (focused) one(`a[href="${CSS.escape(focused)}"]`)?.focus();
  tellTimes();
  offerProof();
}

// Until when buttons that decide rest.
let rested = 0;
const rest = () => { rested = performance.now() + 1200; };

function hold(region) {
  const left = rested - performance.now();
  if (left <= 0) return;
  const buttons = all(".actions button:enabled, .choose button:enabled", region);
  for (const button of buttons) button.disabled = true;
  setTimeout(() => { for (const button of buttons) button.disabled = false; }, left);
}

function offer() {
  if (one(".again")) return;
  const bar = document.createElement("div");
  bar.className = "notice again";
  bar.setAttribute("role", "status");
  const words = document.createElement("span");
  words.textContent = "Something changed here.";
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Show it";
  button.addEventListener("click", () => look(true));
  bar.append(words, button);
  one("main").prepend(bar);
}

function listen() {
  if (!one("nav") || regions().length === 0) return;
  const request = one("[data-request]")?.dataset.request;
  const source = new EventSource(request ? `/live?request=${encodeURIComponent(request)}` : "/live");
  let opened = false;
  source.addEventListener("open", () => { if (opened) look(); opened = true; });
  source.addEventListener("change", () => look());
  source.addEventListener("error", () => {
    // Refused for good: look now and then instead.
    if (source.readyState === EventSource.CLOSED) setInterval(look, 15000);
  });
}

// ---- Keys. ----

const rows = () => all("[data-keys] a.open");

function move(by) {
  const list = rows();
  if (list.length === 0) return;
  const at = list.indexOf(document.activeElement);
  list[Math.min(list.length - 1, Math.max(0, at < 0 ? 0 : at + by))].focus();
}

function act(key) {
  const row = document.activeElement?.matches?.("a.open") ? document.activeElement : null;
  if (row) { location.href = `${row.getAttribute("href")}#key-${key}`; return; }
  const target = one(`[data-key="${key}"]`);
  if (!target || target.disabled) return;
  // Approve is only brought to the finger; Enter is the confirming step.
  if (key === "a") target.focus(); else target.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  switch (event.key) {
    case "j": move(1); break;
    case "k": move(-1); break;
    case "o": document.activeElement?.matches?.("a.open") && document.activeElement.click(); break;
    case "a": case "d": case "q": case "n": act(event.key); break;
    case "i": location.href = "/"; break;
    case "/": location.href = "/log"; break;
    case "?": one("#keys")?.togglePopover(); break;
    default: return;
  }
  event.preventDefault();
});

// ---- Narrowing: what it becomes is shown while choosing. ----

let waiting = 0;
document.addEventListener("input", (event) => {
  const form = event.target.closest?.("form[data-preview]");
  if (!form) return;
  // What was shown is no longer what is chosen.
  for (const button of all("aside button")) button.disabled = true;
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    const url = new URL(form.getAttribute("action"), location.href);
    url.search = new URLSearchParams(new FormData(form)).toString();
    const mine = waiting;
    const fresh = await load(url).catch(() => null);
    const [old, next] = [one("aside > .sheet"), fresh && one("aside > .sheet", fresh)];
    if (old && next && mine === waiting) {
      old.replaceWith(document.importNode(next, true));
      history.replaceState(null, "", url);
      tellTimes();
    }
  }, 200);
});

// ---- Proof: each leaf is in the log that its checkpoint vouches for. ----

const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const same = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);
async function hash(...parts) {
  const whole = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
}

// RFC 9162, section 2.1.3.2.
async function rootOf(leaf, index, size, path) {
  let root = await hash([0], leaf);
  let [fn, sn] = [index, size - 1];
  for (const step of path) {
    if (sn === 0) return null;
    if (fn % 2 === 1 || fn === sn) {
      root = await hash([1], step, root);
      while (fn % 2 === 0 && fn !== 0) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2); }
    } else {
      root = await hash([1], root, step);
    }
    fn = Math.floor(fn / 2);
    sn = Math.floor(sn / 2);
  }
  return sn === 0 ? root : null;
}

// A C2SP signed note whose text is a checkpoint; true, false, or null where this browser cannot tell.
async function isSigned(note, vkey) {
  const end = note.indexOf("\n\n");
  const text = new TextEncoder().encode(note.slice(0, end + 1));
  const [name, , ...rest] = vkey.split("+");
  const key = bytes(rest.join("+"));
  const line = note.slice(end + 2).split("\n").find((l) => l.startsWith(`\u2014 ${name} `));
  if (key[0] !== 1 || !line) return false;
  const signature = bytes(line.slice(name.length + 3)).slice(4);
  try {
    const imported = await crypto.subtle.importKey("raw", key.slice(1), "Ed25519", false, ["verify"]);
    return await crypto.subtle.verify("Ed25519", imported, signature, text);
  } catch {
    return null;
  }
}

async function verify(id) {
  const given = await (await fetch(`/requests/${encodeURIComponent(id)}/proof`)).json();
  const [, size, root] = given.checkpoint.split("\n");
  const wanted = bytes(root);
  let proven = 0, refuted = 0;
  for (const { index, leaf, proof } of given.leaves) {
    const body = bytes(leaf);
    const event = JSON.parse(new TextDecoder().decode(body));
    const found = await rootOf(body, index, Number(size), proof.map(bytes));
    const shown = one(`[data-leaf="${index}"]`);
    const fine = found !== null && same(found, wanted) && event.request_id === id;
    if (fine) proven += 1; else refuted += 1;
    const mark = shown && one(".proof", shown);
    if (mark) {
      mark.textContent = fine ? "· in the log" : "· not in the log";
      mark.dataset.proof = fine ? "proven" : "refuted";
    }
  }
  const missing = all("[data-leaf]").length - proven - refuted;
  const signed = await isSigned(given.checkpoint, given.vkey);
  const by = signed ? "signed by the log's key" : signed === null
    ? "whose signature this browser cannot check" : "WHOSE SIGNATURE IS WRONG";
  const verdict = one("[data-verdict]");
  const sound = refuted === 0 && missing <= 0 && signed !== false && proven > 0;
  verdict.textContent = sound
    ? `All ${proven} leaves are in the log of ${size} leaves, ${by}.`
    : refuted ? `${refuted} leaves are NOT in the log.`
    : missing > 0 ? `${proven} proven; ${missing} newer or further ones were not: load the page again.`
    : `The leaves are under a checkpoint ${by}.`;
  verdict.dataset.proof = sound ? "proven" : "refuted";
}

function offerProof() {
  for (const button of all("[data-verify], [data-copy]")) {
    if (window.isSecureContext && crypto.subtle) button.hidden = false;
  }
}
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("[data-copy]");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
  }
});
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-verify]");
  if (!button) return;
  button.disabled = true;
  verify(button.dataset.verify)
    .catch(() => { one("[data-verdict]").textContent = "It could not be checked: load the page again."; })
    .finally(() => { button.disabled = false; });
});

// ---- Once. ----

// A form is sent once, however often it is pressed.
document.addEventListener("submit", (event) => {
  if (event.defaultPrevented || event.target.method !== "post") return;
  // Forms of passkeys are sent by their own script, and again after a refusal.
  if (event.target.matches("[data-passkey], [data-enrol], [data-signin]")) return;
  if (event.target.dataset.sent) { event.preventDefault(); return; }
  event.target.dataset.sent = "1";
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

remember();
// A finger that bounces must not press what took the button's place.
if (new URLSearchParams(location.search).has("done")) {
  rest();
  for (const region of regions()) hold(region);
}
tellTimes();
setInterval(tellTimes, 10000);
offerProof();
listen();
if (location.hash.startsWith("#key-")) {
  act(location.hash.slice(5));
  history.replaceState(null, "", location.pathname + location.search);
}
