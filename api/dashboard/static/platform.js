// The platforms' pages: what is copied, JSON that is to be read, and which fields a source needs.
"use strict";

(() => {
  // navigator.clipboard is there on https and on loopback only; elsewhere the text is selected, and copied the old way.
  async function copy(shown) {
    const text = "value" in shown ? shown.value : shown.textContent;
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    if ("select" in shown) shown.select();
    else getSelection().selectAllChildren(shown);
    if (!document.execCommand("copy")) throw new Error("not copied");
    return undefined;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copies]");
    if (!button) return;
    copy(document.getElementById(button.dataset.copies)).then(
      () => telltale.toast("Copied.", "good"),
      () => telltale.toast("Your browser did not copy it: select it, and copy it yourself.", "bad"),
    );
  });

  function indent(root) {
    root.querySelectorAll("[data-json]").forEach((shown) => {
      shown.textContent = JSON.stringify(JSON.parse(shown.textContent), null, 2);
      shown.removeAttribute("data-json");
    });
  }
  indent(document);
  document.body.addEventListener("htmx:afterSwap", () => indent(document));

  document.querySelectorAll("[data-source-form]").forEach((form) => {
    const kind = form.elements.namedItem("kind");
    const show = () => form.querySelectorAll("[data-kind]").forEach((part) => { part.hidden = part.dataset.kind !== kind.value; });
    kind.addEventListener("change", show);
    show();
  });
})();
