// Passkeys: enrolling, signing in, and signing a decision. Each form says which it is; what the
// browser's authenticator says goes to the broker as it is, which verifies it.
"use strict";
(() => {
  const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  const described = (list) => (list || []).map((d) => ({ ...d, id: bytes(d.id) }));

  async function send(path, body, csrf) {
    const headers = { "content-type": "application/json", accept: "application/json" };
    if (csrf) headers["x-csrf-token"] = csrf;
    const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
    const said = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error([said.detail || response.statusText, said.next].filter(Boolean).join(": "));
    return said;
  }

  async function assertion(options) {
    const publicKey = { ...options, challenge: bytes(options.challenge), allowCredentials: described(options.allowCredentials) };
    const { id, response } = await navigator.credentials.get({ publicKey });
    return {
      id,
      response: {
        authenticatorData: text(response.authenticatorData),
        clientDataJSON: text(response.clientDataJSON),
        signature: text(response.signature),
      },
    };
  }

  async function enrol(form) {
    const path = form.getAttribute("action");
    const { ticket, publicKey: options } = await send(`${path}/options`, {});
    const publicKey = {
      ...options,
      challenge: bytes(options.challenge),
      user: { ...options.user, id: bytes(options.user.id) },
      excludeCredentials: described(options.excludeCredentials),
    };
    const { response } = await navigator.credentials.create({ publicKey });
    const credential = {
      response: { clientDataJSON: text(response.clientDataJSON), attestationObject: text(response.attestationObject) },
    };
    location.assign((await send(path, { ticket, credential })).next);
  }

  async function signin(form) {
    const human = form.elements.human.value.trim();
    const { ticket, publicKey } = await send("/signin/options", human ? { human } : {});
    const signed = await assertion(publicKey);
    location.assign((await send("/signin", { ticket, assertion: signed, next: form.elements.next.value })).next);
  }

  async function decide(form) {
    const fields = new FormData(form);
    const path = form.getAttribute("action").replace(/\/approve$/, "");
    const [digest, csrf] = [fields.get("digest"), fields.get("csrf")];
    const { publicKey } = await send(`${path}/passkey/options`, { decision: "approve", digest }, csrf);
    const body = { decision: "approve", digest, assertion: await assertion(publicKey) };
    if (fields.has("seen")) body.seen = Number(fields.get("seen"));
    if (fields.has("opened")) body.opened = true;
    for (const name of ["reason", "confirm"]) if (fields.get(name)) body[name] = fields.get(name);
    await send(`${path}/passkey`, body, csrf);
    location.assign(path);
  }

  function say(form, error) {
    let place = form.querySelector(".passkey-said");
    if (!place) {
      place = document.createElement("p");
      place.className = "passkey-said";
      place.setAttribute("role", "alert");
      form.append(place);
    }
    const refused = error.name === "NotAllowedError" ? "The passkey was not used: cancelled, or it took too long." : error.message;
    place.textContent = refused;
    place.hidden = false;
  }

  for (const [selector, work] of [["form[data-enrol]", enrol], ["form[data-signin]", signin], ["form[data-passkey]", decide]]) {
    document.addEventListener("submit", async (event) => {
      const form = event.target.closest(selector);
      if (!form || event.defaultPrevented) return;
      event.preventDefault();
      if (form.dataset.busy) return;
      form.dataset.busy = "1";
      try {
        if (!window.PublicKeyCredential) throw new Error("This browser has no passkeys on this page; open it as localhost or over https.");
        await work(form);
      } catch (error) {
        say(form, error);
      } finally {
        delete form.dataset.busy;
      }
    });
  }
})();
