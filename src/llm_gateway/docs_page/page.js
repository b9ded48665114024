
"use strict";

// sessionStorage ends with the tab; localStorage and cookies would keep the key for good.
const KEPT = "llm-gateway-key";
const signIn = document.querySelector("#sign-in");
const form = document.querySelector("#sign-in form");
const input = document.querySelector("#key");
const problem = document.querySelector("#problem");
const loading = document.querySelector("#loading");
const forget = document.querySelector("#forget");

// The page's own path tells the prefix at which a proxy serves the gateway, if there is one.
const root = location.pathname.replace(/\/docs\/?$/, "");

/** Fetch a path of the gateway with the key. Throws an Error whose message is the gateway's own sentence. */
async function load(path, key) {
  let response;
  try {
    // location.origin has no credentials. The page's own address can have them, and browsers refuse to fetch such URLs.
    response = await fetch(location.origin + root + path, { headers: { "X-Service-Key": key } });
  } catch {
    throw new Error("The gateway does not answer: check that it is running, then try again.");
  }
  if (response.ok) return response;
  if (response.status === 401 || response.status === 403) sessionStorage.removeItem(KEPT);
  const answer = await response.json().catch(() => ({}));
  throw new Error(answer.detail ?? `The gateway answered with status ${response.status}: try again.`);
}

/** Run or apply a text whose hash is in the page's Content-Security-Policy. */
function add(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  document.head.append(element);
}

async function showApi(key) {
  const spec = await (await load("/openapi.json", key)).json();
  sessionStorage.setItem(KEPT, key);
  const files = ["/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"];
  const [style, script] = await Promise.all(files.map(async (path) => (await load(path, key)).text()));
  add("style", style);
  add("script", script);
  if (!window.SwaggerUIBundle) throw new Error("Swagger UI's files changed since the gateway started: restart it.");
  const ui = SwaggerUIBundle({
    spec,
    dom_id: "#api",
    deepLinking: true,
    tryItOutEnabled: true,
    validatorUrl: null,
  });
  ui.preauthorizeApiKey("ServiceKey", key);
  signIn.remove();
  forget.hidden = false;
}

async function open(key) {
  problem.textContent = "";
  form.hidden = true;
  loading.hidden = false;
  try {
    // Browsers refuse to send other characters in a header.
    if (!/^[!-~]+$/.test(key)) throw new Error("A service key has only printable ASCII characters and no blank: copy it again.");
    await showApi(key);
  } catch (error) {
    problem.textContent = error.message;
    form.hidden = false;
    loading.hidden = true;
    input.focus();
    input.select();
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  open(input.value.trim());
});
forget.addEventListener("click", () => {
  sessionStorage.removeItem(KEPT);
  location.reload();
});
document.addEventListener("click", (event) => {
  const status = event.target.closest("tr.response > td.response-col_status");
  if (status) status.parentElement.classList.toggle("is-open");
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const followScheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", followScheme);
followScheme();

localStorage.removeItem("authorized"); // earlier versions of this page kept the key there
const kept = sessionStorage.getItem(KEPT);
if (kept) open(kept);
