"use strict";

// A picker of the service keys that this tab knows: that of the sign-in, and those that were entered or made in it. Each
// is looked up by its own secret, so that the choice says whose it is and what it allows.
{
  const MOST_KEYS = 10;
  const picker = document.querySelector("[data-key-picker]");
  const input = picker.querySelector("[name=key]");
  const [entered, chosen] = [input.closest("label"), picker.querySelector("[data-chosen]")];
  const select = chosen.querySelector("select");
  const [hint, forget] = [picker.querySelector("[data-hint]"), picker.querySelector("[data-forget]")];
  const unchosen = hint.textContent;
  const models = all("#models option").map((option) => option.value);
  const known = new Map(); // secret → what the API says about the key, null if it cannot say it

  const stored = () => JSON.parse(sessionStorage.getItem(KEPT_KEYS) ?? "[]");
  const keep = () => sessionStorage.setItem(KEPT_KEYS, JSON.stringify([...known.keys()].slice(-MOST_KEYS)));

  /** Look a key up, and add it to the choice unless the gateway refuses it. */
  async function learn(secret) {
    if (!/^[!-~]+$/.test(secret) || known.has(secret)) return;
    const response = await fetch(location.origin + root + "/api/v1/me", { headers: { "X-Service-Key": secret } }).catch(() => null);
    if (response?.status !== 401) known.set(secret, response?.ok ? await response.json() : null);
  }

  function show(secret) {
    input.value = secret;
    const secrets = [...known.keys()];
    const options = secrets.map((each) => new Option(nameOf(each), each, false, each === secret));
    select.replaceChildren(...options, new Option("another key …", "", false, !known.has(secret)));
    chosen.hidden = secrets.length === 0;
    entered.hidden = forget.hidden = false;
    (known.has(secret) ? entered : forget).hidden = true;
    const key = known.get(secret);
    hint.textContent = key ? limitsOf(key.in_force) : unchosen;
    offerModels(key?.in_force);
    if (known.has(secret)) sessionStorage.setItem(KEPT, secret);
  }

  function nameOf(secret) {
    const key = known.get(secret);
    return key && !key.last4 ? key.name : `${key?.name ?? "key"} …${key?.last4 ?? secret.slice(-4)}`;
  }

  /** Say what is in force of a key, with what its parents leave it. */
  function limitsOf(rights) {
    const needed = picker.dataset.keyPicker;
    if (!rights.scopes.some((scope) => scope === needed || scope === "admin")) return `It lacks the scope ${needed}: it has ${rights.scopes.join(", ") || "none"}.`;
    const limits = [[rights.rpm, "requests a minute"], [rights.tpm, "tokens a minute"], [rights.max_tokens, "tokens of an answer"], [rights.max_request_usd, "USD a request"]];
    const words = limits.filter(([limit]) => limit).map(([limit, what]) => `${limit.toLocaleString("en")} ${what}`);
    return `Models: ${listsOf(rights).map((globs) => globs.join(", ")).join("; of these ") || "all"}. Limits: ${words.join(", ") || "none of its own"}.`;
  }

  const listsOf = (rights) => (rights.fixed_model === null ? rights.models : [[rights.fixed_model]]);

  /** Suggest only models that a key allows: those in each of its lists of globs, or the one that all requests get. */
  function offerModels(rights) {
    const patterns = (rights ? listsOf(rights) : []).map((globs) => new RegExp(`^(${globs.map((glob) => glob.split("*").map(quoted).join(".*")).join("|")})$`, "s"));
    const allowed = models.filter((name) => patterns.every((pattern) => pattern.test(name)));
    document.querySelector("#models").replaceChildren(...allowed.map((name) => new Option("", name)));
  }

  const quoted = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

  async function enter() {
    const secret = input.value.trim();
    await learn(secret);
    keep();
    if (known.has(secret)) show(secret);
    else if (secret) hint.textContent = "The gateway does not know this key.";
  }

  input.addEventListener("change", enter);
  select.addEventListener("change", () => {
    show(select.value);
    if (!select.value) input.focus();
  });
  forget.addEventListener("click", () => {
    if (sessionStorage.getItem(KEPT) === input.value) sessionStorage.removeItem(KEPT);
    known.delete(input.value);
    keep();
    show([...known.keys()].at(-1) ?? "");
  });

  (async () => {
    const last = sessionStorage.getItem(KEPT) ?? "";
    for (const secret of [...stored(), last]) await learn(secret); // in order: the newest are kept
    keep();
    if (input.value === last) show(last);
  })();
}
