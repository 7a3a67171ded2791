// What every page does: toasts, dialogs, menus, the colours' switch, and times that stay true.
// Pages may call window.telltale.toast(text, "good" | "bad" | "info").
"use strict";

(() => {
  const toasts = document.getElementById("toasts");
  const TOAST_MS = 8000;

  function dress(toast) {
    const close = document.createElement("button");
    close.type = "button";
    close.setAttribute("aria-label", "Close this message");
    close.textContent = "✕";
    close.addEventListener("click", () => toast.remove());
    toast.append(close);
    // What went wrong stays until it is closed.
    if (!toast.classList.contains("toast-bad")) setTimeout(() => toast.remove(), TOAST_MS);
  }

  function toast(content, tone = "info") {
    const made = document.createElement("div");
    made.className = `toast toast-${tone}`;
    const words = document.createElement("span");
    words.append(content);
    made.append(words);
    dress(made);
    toasts.append(made);
  }
  window.telltale = { toast };

  // Who signs in anew in another tab goes on in this one, with whatever is typed here: tabs of one person share the token.
  const person = document.body.dataset.person;
  if (person) {
    const tabs = new BroadcastChannel("telltale");
    tabs.addEventListener("message", ({ data }) => {
      if (data.person !== person) return;
      document.body.setAttribute("hx-headers", JSON.stringify({ "X-CSRF-Token": data.token }));
      document.querySelectorAll("input[name=csrf_token]").forEach((field) => { field.value = data.token; });
    });
    tabs.postMessage({ person, token: JSON.parse(document.body.getAttribute("hx-headers"))["X-CSRF-Token"] });
  }

  toasts.querySelectorAll("[data-toast]").forEach(dress);
  const here = new URL(location.href);
  if (here.searchParams.has("said")) {
    here.searchParams.delete("said");
    history.replaceState(null, "", here);
  }

  // A view says it with the header HX-Trigger: {"toast": {"text": "…", "tone": "good"}}.
  document.body.addEventListener("toast", (event) => toast(event.detail.text, event.detail.tone));
  document.body.addEventListener("htmx:responseError", (event) => {
    const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
    const problem = page.querySelector("[data-problem]");
    const words = document.createDocumentFragment();
    words.append(...(problem ? problem.childNodes : ["That did not work. Try again."]));
    toast(words, "bad");
  });
  document.body.addEventListener("htmx:sendError", () => toast("Telltale cannot be reached. Try again.", "bad"));

  // A form's own button asks before it sends, Enter in a field too. A field that is wrong cannot be shown behind a
  // dialog, so it is looked at first.
  function open(opener, event) {
    if (opener.type === "submit") {
      event.preventDefault();
      if (!opener.form.reportValidity()) return;
    }
    document.getElementById(opener.dataset.opens).showModal();
  }

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-opens]");
    if (opener) open(opener, event);
    if (event.target.closest("[data-closes]")) event.target.closest("dialog").close();
    document.querySelectorAll("[data-menu][open]").forEach((menu) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    document.querySelectorAll("[data-menu][open]").forEach((menu) => {
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  });

  document.querySelectorAll("[data-themes] input").forEach((choice) => {
    choice.addEventListener("change", () => {
      const root = document.documentElement;
      const secure = location.protocol === "https:" ? "; Secure" : "";
      const age = choice.value ? 31536000 : 0;
      document.cookie = `telltale_theme=${choice.value}; Path=/; Max-Age=${age}; SameSite=Lax${secure}`;
      if (choice.value) root.dataset.theme = choice.value;
      else delete root.dataset.theme;
    });
  });

  // The same words as api/dashboard/times.py.
  const STEPS = [["second", 60], ["minute", 60], ["hour", 24], ["day", 30], ["month", 12]];
  function relative(moment) {
    const seconds = (Date.now() - moment) / 1000;
    let amount = Math.abs(seconds);
    let unit = "year";
    for (const [name, next] of STEPS) {
      if (amount < next) {
        unit = name;
        break;
      }
      amount /= next;
    }
    const count = Math.trunc(amount);
    if (unit === "second" && count < 10) return "just now";
    const span = `${count} ${unit}${count === 1 ? "" : "s"}`;
    return seconds >= 0 ? `${span} ago` : `in ${span}`;
  }
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeStyle: "long" });
  function tell(root) {
    root.querySelectorAll("time[data-relative]").forEach((time) => {
      const moment = new Date(time.dateTime);
      time.textContent = relative(moment);
      time.title = exact.format(moment);
    });
  }
  tell(document);
  setInterval(() => tell(document), 30_000);
  document.body.addEventListener("htmx:afterSettle", (event) => tell(event.target));
})();
