// The queue's list by keyboard, and the selection that leads act on. Single keys obey the switch of cases.js.
"use strict";

(() => {
  // What a bulk action answered with is the queue: loading it again asks for the queue, and does nothing twice.
  const outcome = document.querySelector("[data-outcome]");
  if (outcome) history.replaceState(null, "", outcome.dataset.outcome);

  const rows = [...document.querySelectorAll("[data-row]")];
  const picks = [...document.querySelectorAll("[data-pick]")];
  const all = document.querySelector("[data-pick-all]");
  const bulk = document.querySelector("[data-bulk]");
  let last = null;

  // --- Selecting. ---
  function show() {
    if (!bulk) return;
    const picked = picks.filter((pick) => pick.checked).length;
    const most = Number(bulk.dataset.most);
    const words = picked === 0 ? "Tick cases to act on them together" : `${picked} selected`;
    const said = bulk.querySelector("[data-picked]");
    if (said.textContent !== words) said.textContent = picked > most ? `${words}: at most ${most} at once` : words;
    bulk.querySelectorAll("button").forEach((button) => { button.disabled = picked === 0 || picked > most; });
    all.checked = picked > 0 && picked === picks.length;
    all.indeterminate = picked > 0 && picked < picks.length;
  }
  function pick(one, on, range) {
    const from = picks.indexOf(last);
    const to = picks.indexOf(one);
    const chosen = range && from >= 0 ? picks.slice(Math.min(from, to), Math.max(from, to) + 1) : [one];
    chosen.forEach((each) => { each.checked = on; });
    last = one;
    show();
  }
  picks.forEach((one) => one.addEventListener("click", (event) => pick(one, one.checked, event.shiftKey)));
  if (all) {
    all.addEventListener("change", () => {
      picks.forEach((one) => { one.checked = all.checked; });
      show();
    });
    document.querySelector("[data-unpick]").addEventListener("click", () => {
      picks.forEach((one) => { one.checked = false; });
      show();
    });
  }
  // A browser that goes back brings the ticks back.
  window.addEventListener("pageshow", show);
  show();

  // --- Moving. ---
  const TYPING = "textarea, select, input:not([type=radio]):not([type=checkbox])";
  function move(by) {
    if (!rows.length) return false;
    const here = rows.findIndex((row) => row.contains(document.activeElement));
    const next = here < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, here + by));
    rows[next].querySelector(".case-link").focus();
    rows[next].scrollIntoView({ block: "nearest" });
    return true;
  }
  function toggle(event) {
    const one = event.target.closest?.("[data-row]")?.querySelector("[data-pick]");
    if (!one) return false;
    pick(one, !one.checked, event.shiftKey);
    return true;
  }
  const MOVES = { j: () => move(1), k: () => move(-1), arrowdown: () => move(1), arrowup: () => move(-1), x: toggle };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.(TYPING)) return;
    if (document.querySelector("dialog[open]") || localStorage.getItem("telltale_keys_off") !== null) return;
    if (MOVES[event.key.toLowerCase()]?.(event)) event.preventDefault();
  });
})();
