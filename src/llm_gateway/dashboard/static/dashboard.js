"use strict";

// The pages work without this script, but for what a browser alone cannot do: the live table, explain, and copying.
const KEPT = "llm-gateway-key"; // as on the page /docs: sessionStorage ends with the tab
const KEPT_KEYS = "llm-gateway-keys"; // further keys of this tab, as a JSON array
const root = location.pathname.replace(/\/ui(\/.*)?$/, "");
const all = (selector, from = document) => [...from.querySelectorAll(selector)];

/** Send a JSON body to a path of the public API, with a service key. Throws an Error with the gateway's own sentence. */
async function callApi(path, key, body, signal) {
  let response;
  try {
    response = await fetch(location.origin + root + path, {
      method: "POST",
      headers: { "X-Service-Key": key, "Content-Type": "application/json", "Cache-Control": body.fresh ? "no-cache" : "max-age=3600" },
      body: JSON.stringify(body.content ?? body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The gateway does not answer: check that it is running, then try again.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.detail ?? problem.error?.message ?? `The gateway answered with status ${response.status}.`);
}

function setUp(from) {
  for (const each of all("[data-origin]", from)) each.textContent = location.origin + root;
  for (const each of all("[data-kept-key]", from)) if (!each.value) each.value = sessionStorage.getItem(KEPT) ?? "";
  for (const each of all("table:not([data-as-file])", from)) if (each.tBodies[0]?.rows.length) offerFile(each);
}

// Sign-in: the time zone of the pages' times, and the key for the playground and explain, which call the public API.
for (const form of all("[data-sign-in]")) {
  form.elements.timezone.value = Intl.DateTimeFormat().resolvedOptions().timeZone;
  form.addEventListener("submit", () => {
    sessionStorage.removeItem(KEPT_KEYS);
    if (form.elements.key) sessionStorage.setItem(KEPT, form.elements.key.value.trim());
    else sessionStorage.removeItem(KEPT); // people have no key: the playground asks for one
  });
}
for (const form of all('form[action$="/sign-out"]')) form.addEventListener("submit", () => [KEPT, KEPT_KEYS].forEach((each) => sessionStorage.removeItem(each)));

const menu = document.querySelector(".menu");
menu?.addEventListener("click", () => {
  const open = document.querySelector("#navigation").classList.toggle("open");
  menu.setAttribute("aria-expanded", open);
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
  if (event.target.matches("[data-preset]")) choosePreset(event.target);
});

function choosePreset(select) {
  const fields = select.form.elements;
  fields.name.value = select.value;
  fields.base_url.placeholder = select.selectedOptions[0].dataset.url ?? "";
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.copy !== undefined) copy(button, button.dataset.copy);
  if (button?.dataset.copyTab !== undefined) copy(button, button.closest("[data-tabs]").querySelector("pre:not([hidden])").textContent);
  if (button?.dataset.tab) showTab(button);
  if (button?.dataset.closeDrawer !== undefined) closeDrawer();
  const trial = event.target.closest("a[data-use-key]"); // a new key, whose secret is shown only now
  if (trial) {
    const kept = JSON.parse(sessionStorage.getItem(KEPT_KEYS) ?? "[]");
    sessionStorage.setItem(KEPT_KEYS, JSON.stringify([...kept, trial.dataset.useKey]));
    sessionStorage.setItem(KEPT, trial.dataset.useKey);
  }
  const row = event.target.closest("#records tr");
  if (row && event.target.closest("a[hx-get]")) {
    for (const each of all("#records tr.chosen")) each.classList.remove("chosen");
    row.classList.add("chosen");
  }
});

async function copy(button, text) {
  await navigator.clipboard.writeText(text);
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function showTab(button) {
  const tabs = button.closest("[data-tabs]");
  for (const each of all("[role=tab]", tabs)) each.setAttribute("aria-selected", each === button);
  for (const each of all("[data-panel]", tabs)) each.hidden = each.dataset.panel !== button.dataset.tab;
}

// Live table: asked for again while the box is checked and the page is visible.
const live = document.querySelector("#live");
let timer = 0;
function followLive() {
  clearTimeout(timer);
  if (!live?.checked) return;
  timer = setTimeout(async () => {
    if (!document.hidden) await htmx.ajax("GET", live.dataset.live, { target: "#records", swap: "innerHTML" }).catch(() => {});
    followLive();
  }, 1000);
}
live?.addEventListener("change", followLive);

// The drawer takes the focus, and gives it back to the row that it shows.
function closeDrawer() {
  document.querySelector("#drawer")?.replaceChildren();
  document.querySelector("#records tr.chosen a")?.focus();
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeDrawer();
});

for (const form of all("[data-explain]")) form.addEventListener("submit", explain);

async function explain(event) {
  event.preventDefault();
  const form = event.target;
  const answer = document.querySelector("[data-explanation]");
  const { user_id, service, model, session, prompt, key, ...named } = Object.fromEntries(new FormData(form));
  const body = { user_id, service, prompt };
  if (model) body.model = model;
  const asked = { path: "/api/v1/generate", body };
  if (session) asked.session = session;
  if (named.as) asked.key = named.as;
  answer.replaceChildren();
  try {
    const response = await callApi("/api/v1/routing/explain", key, asked);
    answer.append(explanation(await response.json()));
    setUp(answer);
  } catch (error) {
    answer.append(element("p", "notice bad", error.message));
  }
}

function explanation({ route, session, cache, candidates, budgets }) {
  const table = element("table", "rows");
  const head = table.createTHead().insertRow();
  for (const name of ["", "Provider", "Model", "Verdict", "Why"]) head.append(element("th", "", name));
  const rows = table.createTBody();
  for (const each of candidates) {
    const row = rows.insertRow();
    for (const text of [each.rank, each.provider, each.model]) row.insertCell().textContent = text ?? "";
    row.insertCell().append(element("span", `state ${each.verdict === "serves" ? "good" : "off"}`, each.verdict.replace("_", " ")));
    row.insertCell().textContent = each.reasons.map(wordsOf).join("; ");
  }
  const part = document.createDocumentFragment();
  const counted = budgets.length ? ` Budgets: ${budgets.join(", ")}.` : "";
  const kept = session ? ` Session: ${session}.` : "";
  part.append(element("p", "muted", `Route: ${route}.${kept} Cache: ${cache}.${counted}`), table);
  return part;
}

function wordsOf({ code, retry_after_s, detail }) {
  const wait = retry_after_s ? ` for ${retry_after_s} s` : "";
  return code.replaceAll("_", " ") + wait + (detail ? `: ${detail}` : "");
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

// Tables as files: what a table shows, with a quote before what a spreadsheet would take for a formula.
function offerFile(table) {
  const button = element("button", "quiet save", "CSV");
  button.type = "button";
  button.title = "Save these rows as a CSV file";
  button.addEventListener("click", () => {
    const lines = all("tr", table).map((row) => [...row.cells].map((cell) => csvField(cellText(cell))).join(","));
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
    link.download = `${document.title.split(" ·")[0].toLowerCase().replaceAll(" ", "-")}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  const frame = table.closest(".scroll") ?? table;
  frame.after(button);
}

function cellText(cell) {
  if (cell.querySelector("form")) return ""; // buttons
  const details = cell.querySelector("dl"); // closed or not
  if (!details) return cell.innerText;
  return all("dt", details).map((term) => `${term.textContent}: ${term.nextElementSibling.textContent}`).join("; ");
}

function csvField(text) {
  const line = text.trim().replace(/\s+/g, " ");
  const safe = /^[=@\t]|^[+-](?![\d.,]*( ?%)?$)/.test(line) ? `'${line}` : line;
  return `"${safe.replaceAll('"', '""')}"`;
}

// What was changed, with its "Undo": it goes after a while in which neither pointer nor focus is on it.
const TOAST_MS = 20_000;
const toast = document.querySelector(".toast");
if (toast) {
  const address = new URL(location.href); // without what was changed, so that a reload does not say it again
  for (const name of ["changed", "undone"]) address.searchParams.delete(name);
  history.replaceState(history.state, "", address);
  let leaving = 0;
  const stay = () => clearTimeout(leaving);
  const leave = () => {
    stay();
    leaving = setTimeout(() => toast.remove(), TOAST_MS);
  };
  for (const name of ["pointerenter", "focusin"]) toast.addEventListener(name, stay);
  for (const name of ["pointerleave", "focusout"]) toast.addEventListener(name, leave);
  toast.querySelector("[data-close-toast]").addEventListener("click", () => toast.remove());
  leave();
}

setUp(document);
document.addEventListener("htmx:afterSwap", (event) => {
  setUp(event.target);
  if (event.target.id === "drawer") event.target.querySelector(".details")?.focus();
});
