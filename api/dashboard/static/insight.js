// Insight and thresholds: what is chosen is shown at once; thresholds are tried before they are saved.
"use strict";

(() => {
  document.querySelectorAll("[data-submits]").forEach((one) => {
    one.addEventListener("change", () => one.form.requestSubmit());
  });

  // --- Thresholds: every number comes from the server; here one of its lines is picked for each slider. ---
  const form = document.querySelector("[data-try]");
  if (!form) return;
  const lines = { real: JSON.parse(form.dataset.reals), fake: JSON.parse(form.dataset.fakes) };
  const cases = Number(form.dataset.cases);
  const days = Number(form.dataset.days);
  const slider = (side) => form.querySelector(`[data-slider=${side}]`);
  const picked = (side) => lines[side][Number(slider(side).value)];
  const WIDE = 1000;
  const NBSP = "\u00a0";

  function effects() {
    const [real, fake] = [picked("real"), picked("fake")];
    const decided = real.cases + fake.cases;
    return {
      automatic: cases ? percent(decided / cases) : "no cases",
      load: cases ? `${((cases - decided) / days).toFixed(1)} a day` : "no cases",
      fakes: fake.right,
      reals: real.right,
    };
  }
  // As api/dashboard/figures.py has it.
  function percent(value) {
    const shown = (value * 100).toFixed(1);
    if (["0.0", "100.0"].includes(shown) && value !== 0 && value !== 1) return value > 0.5 ? `over 99.9${NBSP}%` : `under 0.1${NBSP}%`;
    return `${shown.replace(/\.0$/, "")}${NBSP}%`;
  }

  // What lies between them is for people, so there is always something between them.
  function keepApart(moved) {
    const [real, fake] = [slider("real"), slider("fake")];
    const last = lines.real.length - 1;
    if (moved === "real") {
      real.value = Math.min(Number(real.value), last - 1);
      fake.value = Math.max(Number(fake.value), Number(real.value) + 1);
    } else {
      fake.value = Math.max(Number(fake.value), 1);
      real.value = Math.min(Number(real.value), Number(fake.value) - 1);
    }
  }

  function show() {
    for (const side of ["real", "fake"]) {
      const { value } = picked(side);
      slider(side).setAttribute("aria-valuetext", value);
      form.querySelector(`[data-shows=${side}]`).textContent = value;
      form.querySelector(`[data-value=${side}]`).value = value;
      const edge = form.querySelector(`[data-edge=${side}]`);
      for (const end of ["x1", "x2"]) edge.setAttribute(end, value * WIDE);
    }
    form.querySelector("[data-zone=real]").setAttribute("width", picked("real").value * WIDE);
    form.querySelector("[data-zone=fake]").setAttribute("x", picked("fake").value * WIDE);
    form.querySelector("[data-zone=fake]").setAttribute("width", (1 - picked("fake").value) * WIDE);
    for (const [name, words] of Object.entries(effects())) {
      const cell = form.querySelector(`[data-effect=${name}]`);
      cell.textContent = words;
      cell.toggleAttribute("data-changed", words !== cell.previousElementSibling.textContent);
    }
  }

  // Said once the slider rests, not at every step of it.
  function tell() {
    const { automatic, load, fakes, reals } = effects();
    form.querySelector("[data-told]").textContent =
      `${automatic} decided automatically, ${load} to people. Right, of fakes: ${fakes}. Right, of reals: ${reals}.`;
  }

  show();  // what a training run proposed is not what is in force
  for (const side of ["real", "fake"]) {
    slider(side).addEventListener("input", () => {
      keepApart(side);
      show();
    });
    slider(side).addEventListener("change", tell);
  }
})();
