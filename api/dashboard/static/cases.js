// The queue and the case page: keys, sentences, the heartbeat of a claim, and the undo countdown.
// Everything that is done is a form's button too; the keys press those buttons.
"use strict";

(() => {
  // Read each time: shell.js renews it where somebody has signed in again in another tab.
  const csrf = () => JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRF-Token"];
  const shown = document.querySelector("[data-case]");
  const form = document.querySelector("[data-answer]");
  const here = new URL(location.href);
  if (here.searchParams.has("undo")) {
    here.searchParams.delete("undo");
    history.replaceState(null, "", here);
  }

  // --- Keys. They can be switched off, for those whose software types for them (WCAG 2.1.4). ---
  const KEYS_OFF = "telltale_keys_off";
  const keysOn = document.querySelector("[data-keys-on]");
  if (keysOn) {
    keysOn.checked = localStorage.getItem(KEYS_OFF) === null;
    keysOn.addEventListener("change", () => {
      if (keysOn.checked) localStorage.removeItem(KEYS_OFF);
      else localStorage.setItem(KEYS_OFF, "1");
    });
  }
  const TYPING = "textarea, select, input:not([type=radio]):not([type=checkbox])";
  const isTyping = (target) => target.matches?.(TYPING);
  const isFree = (event) =>
    !(event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]"));
  // Whether a key that was pressed is one of the page's (viewer.js asks too).
  telltale.hears = (event) => isFree(event) && localStorage.getItem(KEYS_OFF) === null;

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && isTyping(event.target)) event.target.blur();
    // A browser would press the form's first button, and that is an answer.
    if (event.key === "Enter" && event.target.matches?.("[data-answer] input")) return event.preventDefault();
    if (!telltale.hears(event) && !(event.key === "?" && isFree(event))) return;
    if (event.key === "Enter" && event.target !== document.body && event.target.id !== "main") return;
    if (press(event.key.toLowerCase(), event)) event.preventDefault();
  });

  function press(key, event) {
    if (event.repeat) return false;
    if (sentences.length && ["1", "2", "3"].includes(key)) return grade(Number(key) - 1);
    if (sentences.length && (key === "arrowdown" || key === "arrowup") && !event.target.matches("input")) {
      return go(current + (key === "arrowdown" ? 1 : -1));
    }
    if (sentences.length && key === "e") return focus(sentences[current].querySelector(".rewrite input"));
    const target = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
    if (!target) return false;
    if (target.matches("textarea, input:not([data-toggles])")) return focus(target);
    target.click();
    return true;
  }
  function focus(field) {
    field.focus();
    return true;
  }

  document.querySelectorAll("[data-submits]").forEach((one) => {
    one.addEventListener("change", () => one.form.requestSubmit());
  });

  // --- Sentences. ---
  const sentences = [];
  let current = 0;
  function select(number) {
    current = Math.max(0, Math.min(sentences.length - 1, number));
    sentences.forEach((one, index) => one.classList.toggle("current", index === current));
    return true;
  }
  function go(number) {
    select(number);
    sentences[current].scrollIntoView({ block: "nearest" });
    return true;
  }
  function grade(number) {
    sentences[current].querySelectorAll(".grades input")[number].checked = true;
    return go(current + 1);
  }
  function findSentences() {
    sentences.splice(0, sentences.length, ...document.querySelectorAll("[data-sentence]"));
    sentences.forEach((one, index) => one.addEventListener("focusin", () => select(index)));
    if (sentences.length) select(0);
  }
  findSentences();
  // An explanation that was asked for has come.
  document.body.addEventListener("htmx:oobAfterSwap", findSentences);

  // --- The claim: kept while the page is open, given back when it is left. ---
  const lost = document.querySelector("[data-lost]");
  const fences = () => document.querySelectorAll("input[name=fence]");
  let submitting = false;
  let holding = shown?.dataset.held === "yes";
  const opened = Date.now();
  const RELOAD_MS = 3000;

  function send(address, more = {}) {
    const body = new URLSearchParams({ csrf_token: csrf(), fence: fences()[0]?.value ?? "", ...more });
    return fetch(address, { method: "POST", body, headers: { Accept: "application/json" } });
  }
  const SIGNED_OUT = "You are signed out: sign in in another tab, then answer here.";
  let signedOut = false;
  async function beat() {
    if (!holding) return;
    let answer;
    try {
      answer = await send(shown.dataset.heartbeat);
    } catch {
      return; // The network is away; the lease outlasts a few beats.
    }
    if (answer.status === 401) {
      signedOut = true;
      return lose(SIGNED_OUT);
    }
    if (answer.ok && signedOut) lost.hidden = true;
    signedOut = false;
    if (answer.status === 404) return lose("This case is not yours to see any more: it was reported as illegal.");
    if (answer.status !== 409) return;
    holding = false;
    // Of a page that was loaded anew: the older one may have said good-bye after this one was made.
    if (Date.now() - opened < RELOAD_MS) await retake();
    else lose((await answer.json()).detail);
  }
  function lose(words) {
    lost.querySelector("[data-lost-words]").textContent = `${words} What you filled in is still here.`;
    lost.hidden = false;
  }
  async function retake() {
    const answer = await send(lost.querySelector("[data-retake]").dataset.retake);
    const told = await answer.json().catch(() => ({ detail: answer.status === 401 ? SIGNED_OUT : "That did not work." }));
    if (!answer.ok) {
      lose(told.detail);
      return;
    }
    fences().forEach((field) => { field.value = told.fence; });
    lost.hidden = true;
    holding = true;
  }
  if (lost) lost.querySelector("[data-retake]").addEventListener("click", retake);
  if (shown) {
    // Soon, and again: the good-bye of the page before this one may arrive after it.
    [500, 2000].forEach((soon) => setTimeout(beat, soon));
    setInterval(beat, Number(shown.dataset.heartbeatS) * 1000);
    // What is sent under the claim ends it itself; undo and the like leave the page as a link does.
    document.addEventListener("submit", (event) => {
      submitting = event.target.elements.fence !== undefined;
    });
    window.addEventListener("pagehide", () => {
      const body = new URLSearchParams({ csrf_token: csrf(), fence: fences()[0]?.value ?? "" });
      if (holding && !submitting) navigator.sendBeacon(shown.dataset.release, body);
    });
    // Before the queue is asked for, or it would still show the case as taken.
    document.querySelector("[data-leaves]").addEventListener("click", async (event) => {
      if (!holding || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      holding = false;
      await send(shown.dataset.release).catch(() => undefined);
      location.assign(event.target.closest("a").href);
    });
  }
  // A page out of the browser's own store stands for a claim that has ended.
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload();
  });
  // Once is enough, however often the key is hit.
  if (form) {
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) event.preventDefault();
      form.dataset.sent = "1";
    });
  }

  document.body.dataset.keys = "ready";

  // --- Undo. ---
  const undo = document.querySelector("[data-undo]");
  if (undo) {
    const until = performance.now() + Number(undo.dataset.seconds) * 1000;
    const left = undo.querySelector("[data-left]");
    const tick = setInterval(() => {
      const seconds = Math.ceil((until - performance.now()) / 1000);
      if (seconds > 0) {
        left.textContent = seconds;
        return;
      }
      clearInterval(tick);
      undo.remove();
    }, 200);
  }
})();
