"use strict";

// Keys that go to a screen, move in its table and open its forms; "?" shows them. They can be switched off there, since
// programs for speech type letters, too (WCAG 2.1.4).
{
  const OFF = "llm-gateway-shortcuts-off";
  const MOST_BETWEEN_MS = 1500; // between "g" and the letter of a screen
  const sheet = document.querySelector("#shortcuts");
  const isOn = document.querySelector("#shortcuts-on");
  let goes = 0;

  isOn.checked = localStorage.getItem(OFF) === null;
  isOn.addEventListener("change", () => (isOn.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
  for (const button of document.querySelectorAll("[data-shortcuts]")) button.addEventListener("click", () => sheet.showModal());

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || !isOn.checked || sheet.open) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea, [contenteditable]")) return;
    const isAfterG = Date.now() - goes < MOST_BETWEEN_MS;
    goes = 0;
    if (isAfterG ? goTo(event.key) : act(event.key)) event.preventDefault();
  });

  function goTo(letter) {
    const link = document.querySelector(`#navigation a[data-letter="${CSS.escape(letter)}"]`);
    link?.click();
    return link !== null;
  }

  function act(key) {
    if (key === "g") return (goes = Date.now()) > 0;
    if (key === "?") return sheet.showModal() ?? true;
    if (key === "j") return move(1);
    if (key === "k") return move(-1);
    if (key === "/") return find();
    if (key === "l") return click("#live");
    if (key === "n") return click("main .more a.button, main .more a");
    if (key === "a") return add();
    if (/^[1-9]$/.test(key)) return click(`.period .segments button:nth-of-type(${key})`);
    return false;
  }

  function click(selector) {
    const found = document.querySelector(selector);
    found?.click();
    return found !== null;
  }

  /** Move the focus to the first link of the next row, or of the one before, in the table that has it or in the first. */
  function move(step) {
    const here = document.activeElement.closest("main tbody");
    const links = [...(here ?? document.querySelector("main tbody"))?.rows ?? []].map((row) => row.querySelector("a")).filter(Boolean);
    const at = links.findIndex((link) => link.closest("tr").contains(document.activeElement));
    const next = links[at < 0 ? (step > 0 ? 0 : links.length - 1) : at + step];
    next?.focus();
    return links.length > 0;
  }

  function find() {
    const filters = document.querySelector("main .filters details");
    if (filters) filters.open = true;
    const field = document.querySelector("main .filters input, main .filters select, main form[method=get] input:not([type=hidden], [type=date])");
    field?.focus();
    return Boolean(field);
  }

  function add() {
    const form = document.querySelector("#add");
    form?.scrollIntoView();
    form?.querySelector("input:not([type=hidden]), select, textarea")?.focus();
    return form !== null;
  }
}
