"use strict";

// Asks one model, or two side by side, over /v1/chat/completions as a stream, and then for what the answer cost.
const form = document.querySelector("#playground");
const answers = document.querySelector("#answers");
const stop = form.querySelector("[data-stop]");
let asking = null;

const asked = new URLSearchParams(location.search).get("model");
if (asked) form.elements.model.value = asked;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = Object.fromEntries(new FormData(form));
  sessionStorage.setItem(KEPT, given.key);
  asking = new AbortController();
  stop.disabled = false;
  answers.replaceChildren();
  const models = given.other ? [given.model, given.other] : [given.model];
  await Promise.all(models.map((model) => ask(model, given, asking.signal)));
  stop.disabled = true;
});
stop.addEventListener("click", () => asking?.abort());

async function ask(model, given, signal) {
  const card = document.querySelector("#answer").content.cloneNode(true).firstElementChild;
  answers.append(card);
  card.querySelector("h2").textContent = model || "The first that answers";
  const text = card.querySelector(".text");
  const status = card.querySelector("p");
  const began = performance.now();
  status.textContent = "Asking …";
  try {
    const response = await callApi("/v1/chat/completions", given.key, { content: bodyOf(model, given), fresh: Boolean(given.fresh) }, signal);
    let first = null;
    let usage = null;
    for await (const event of events(response.body)) {
      const piece = event.choices?.[0]?.delta?.content;
      if (event.error) throw new Error(event.error.message);
      if (piece) {
        first ??= performance.now() - began;
        text.append(piece);
      }
      usage = event.usage ?? usage;
    }
    status.replaceChildren(...ending(response, usage, first, performance.now() - began));
    showCost(status, idOf(response), signal).catch(() => {}); // the link leads to it all the same
  } catch (error) {
    status.textContent = error.name === "AbortError" ? "Stopped." : error.message;
    status.className = error.name === "AbortError" ? "muted" : "bad";
  }
}

function bodyOf(model, given) {
  const messages = [];
  if (given.system) messages.push({ role: "system", content: given.system });
  messages.push({ role: "user", content: given.prompt });
  const body = { model: model || "auto", messages, user: given.user_id, stream: true, stream_options: { include_usage: true } };
  if (given.max_tokens) body.max_tokens = Number(given.max_tokens);
  if (given.temperature) body.temperature = Number(given.temperature);
  return body;
}

/** The events of a stream of server-sent events, decoded. */
async function* events(stream) {
  let rest = "";
  for await (const piece of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + piece).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

const idOf = (response) => response.headers.get("x-gateway-request-id") ?? response.headers.get("x-request-id");

/** Show what the answer cost and who was tried, once its record is stored, which takes a second at most as a rule. */
async function showCost(status, id, signal) {
  for (let tries = 0; id && tries < 10; tries += 1) {
    const response = await fetch(`${location.origin}${root}/ui/playground/${id}`, { headers: { "hx-request": "true" }, signal });
    if (response.status === 200) status.insertAdjacentHTML("afterend", await response.text());
    if (response.status !== 204) return;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

function ending(response, usage, first, whole) {
  const parts = [];
  const id = idOf(response);
  if (first !== null) parts.push(`first token after ${Math.round(first)} ms`);
  parts.push(`${Math.round(whole)} ms in all`);
  if (usage) parts.push(`${usage.prompt_tokens} tokens in, ${usage.completion_tokens} out`);
  const nodes = [document.createTextNode(`${parts.join(" · ")} `)];
  if (id) {
    const link = document.createElement("a");
    link.href = `${location.origin}${root}/ui/requests/${id}`;
    link.textContent = "the request";
    nodes.push(link);
  }
  return nodes;
}
