// The picture of the case page: its veils, the deep zoom, the loupe and the forensic views.
// OpenSeadragon draws; without it there is the plain image, under the same veils.
"use strict";

(() => {
  const picture = document.querySelector("[data-picture]");
  if (!picture) return;

  // --- The picture is veiled until somebody says otherwise; that holds for this tab. ---
  function reveal(on) {
    picture.classList.toggle("revealed", on);
    return true;
  }
  document.addEventListener("keyup", (event) => {
    if (event.key.toLowerCase() === "v") reveal(false);
  });
  window.addEventListener("blur", () => reveal(false));
  document.querySelectorAll("[data-reveal]").forEach((button) => {
    button.addEventListener("pointerdown", () => reveal(true));
    for (const end of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(end, () => reveal(false));
    button.addEventListener("keydown", (event) => {
      if (event.key === " " || event.key === "Enter") reveal(true);
    });
    for (const end of ["keyup", "blur"]) button.addEventListener(end, () => reveal(false));
  });
  document.querySelectorAll("[data-look]").forEach((button) => {
    const veil = button.dataset.look;
    const kept = `telltale_${veil}`;
    const apply = (on) => {
      picture.classList.toggle(veil, on);
      button.setAttribute("aria-pressed", String(on));
    };
    apply(sessionStorage.getItem(kept) !== "off");
    button.addEventListener("click", () => {
      const on = !picture.classList.contains(veil);
      sessionStorage.setItem(kept, on ? "on" : "off");
      apply(on);
    });
  });

  // --- Keys that go on while they are held; the others are the buttons' (cases.js presses those). ---
  const PANS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  // Before the page's own keys: arrows are its sentences.
  document.addEventListener("keydown", (event) => {
    if (!telltale.hears(event) || !press(event)) return;
    event.preventDefault();
    event.stopPropagation();
  }, true);

  function press(event) {
    if (event.key.toLowerCase() === "v") return reveal(true);
    if (!viewer) return false;
    if (event.key in PANS && (event.shiftKey || stage.contains(event.target))) return pan(...PANS[event.key]);
    if (event.key === "+" || event.key === "=") return zoom(STEP);
    if (event.key === "-") return zoom(1 / STEP);
    return false;
  }

  // --- Deep zoom. ---
  const image = picture.querySelector("[data-image]");
  const stage = picture.querySelector("[data-stage]");
  const loupe = picture.querySelector("[data-loupe]");
  const said = picture.querySelector("[data-zoom]");
  const STEP = 1.4;
  const STRIDE = 0.12; // of what is seen, for one press of an arrow
  // At so many screen pixels for one of the image's, those are shown as squares: one by one, and where each is looked at.
  const isCrisp = (ratio) => Math.abs(ratio - 1) < 0.01 || ratio >= 4;
  const MOST_BLUR = 8;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let viewer = null;
  let pixels = image; // what is shown
  if (image && window.OpenSeadragon) image.decode().then(open, () => undefined);

  function open() {
    stage.hidden = false;
    // OpenSeadragon would add a style of its own, which the policy refuses; it looks whether it is there. This is none.
    const mark = document.createElementNS("urn:none", "style");
    mark.setAttribute("data-openseadragon-mobile-css", "");
    document.head.append(mark);
    viewer = OpenSeadragon({
      element: stage,
      tileSources: source(image),
      drawer: "canvas",
      showNavigationControl: false,
      keyboardNavEnabled: false,
      showNavigator: true,
      navigatorPosition: "BOTTOM_RIGHT",
      navigatorAutoFade: false,
      animationTime: still ? 0 : 0.4,
      visibilityRatio: 0.5,
      minZoomImageRatio: 0.8,
      maxZoomPixelRatio: 16,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
      gestureSettingsTouch: { dblClickToZoom: true },
    });
    viewer.canvas.setAttribute("role", "group");
    viewer.canvas.setAttribute("aria-label", "The image, enlarged: plus and minus zoom, arrows move");
    viewer.navigator.element.setAttribute("aria-hidden", "true");
    viewer.navigator.element.tabIndex = -1;
    viewer.addOnceHandler("tile-drawn", () => {
      picture.classList.add("open");
      picture.querySelector("[data-tools]").hidden = false;
      said.hidden = false;
      moved();
    });
    for (const event of ["update-viewport", "resize", "rotate", "flip"]) viewer.addHandler(event, moved);
  }

  // A picture with the measures that the image was sent with, so that 100 % is of those; a spectrum has its own.
  function source(of, own = false) {
    const width = own ? of.naturalWidth : Number(image.getAttribute("width"));
    const height = own ? of.naturalHeight : Number(image.getAttribute("height"));
    return { type: "legacy-image-pyramid", levels: [{ url: of.src, width, height }] };
  }
  const item = () => viewer.world.getItemAt(0);

  // Screen pixels for one of the image's.
  const scale = () => item().viewportToImageZoom(viewer.viewport.getZoom(true));

  function moved() {
    if (!item()) return;
    const times = viewer.viewport.getZoom(true) / viewer.viewport.getHomeZoom();
    picture.classList.toggle("zoomed", times > 1.02);
    picture.style.setProperty("--zoom", Math.min(MOST_BLUR, Math.max(1, Math.round(times * 10) / 10)));
    said.textContent = `${Math.round(scale() * 100)} %`;
    const smooth = !isCrisp(scale());
    if (viewer.drawer.context.imageSmoothingEnabled !== smooth) viewer.drawer.setImageSmoothingEnabled(smooth);
    if (scale() * item().getContentSize().x > pixels.naturalWidth) sharpen();
    drawLoupe();
  }
  // All of the image's pixels, once one looks so close that the rendition's are not enough.
  let sharpening = false;
  async function sharpen() {
    if (sharpening || pixels !== image || image.naturalWidth >= item().getContentSize().x) return;
    sharpening = true;
    const whole = await load(picture.dataset.full).catch(() => image);
    if (pixels === image && whole !== image) put(whole);
    sharpening = whole === image; // once is enough, if that did not work
  }
  // Show other pixels, and take the former ones away as soon as these are drawn.
  function put(loaded, own = false) {
    const former = item();
    viewer.addTiledImage({
      tileSource: source(loaded, own),
      success: ({ item: added }) => added.addOnceHandler("fully-loaded-change", () => {
        viewer.world.removeItem(former);
        pixels = loaded;
        moved();
      }),
    });
  }
  function zoom(by) {
    viewer.viewport.zoomBy(by);
    viewer.viewport.applyConstraints();
    return true;
  }
  function pan(x, y) {
    const seen = viewer.viewport.getBounds();
    const by = new OpenSeadragon.Point(x * seen.width, y * seen.height).times(STRIDE);
    const mirrored = viewer.viewport.getFlip() ? new OpenSeadragon.Point(-by.x, by.y) : by;
    viewer.viewport.panBy(mirrored.rotate(-viewer.viewport.getRotation()));
    viewer.viewport.applyConstraints();
    return true;
  }
  const TOOLS = {
    in: () => zoom(STEP),
    out: () => zoom(1 / STEP),
    fit: () => viewer.viewport.goHome(),
    pixels: () => viewer.viewport.zoomTo(item().imageToViewportZoom(1)),
    // Clockwise as it is seen.
    turn: () => viewer.viewport.setRotation(viewer.viewport.getRotation() + (viewer.viewport.getFlip() ? -90 : 90), still),
    mirror: () => viewer.viewport.toggleFlip(),
    loupe: () => lend(loupe.hidden),
  };
  picture.querySelectorAll("[data-tool]").forEach((button) => {
    button.addEventListener("click", () => viewer && TOOLS[button.dataset.tool]());
  });

  // --- The loupe: what is under the pointer, larger, from all the pixels there are. ---
  const LARGER = 3;
  let pointer = null; // in the picture's own pixels
  function lend(on) {
    loupe.hidden = !on;
    picture.querySelector("[data-tool=loupe]").setAttribute("aria-pressed", String(on));
    if (on) sharpen();
    drawLoupe();
  }
  if (loupe) {
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      pointer = { x: event.clientX - box.left, y: event.clientY - box.top };
      if (viewer) drawLoupe();
    });
    picture.addEventListener("pointerleave", () => {
      pointer = null;
      if (viewer) drawLoupe();
    });
  }
  function drawLoupe() {
    if (loupe.hidden) return;
    const size = loupe.offsetWidth;
    const at = pointer ?? { x: picture.clientWidth / 2, y: picture.clientHeight / 2 };
    loupe.style.left = `${at.x - size / 2}px`;
    loupe.style.top = `${at.y - size / 2}px`;
    loupe.width = loupe.height = size * devicePixelRatio;
    const flipped = viewer.viewport.getFlip();
    const x = flipped ? picture.clientWidth - at.x : at.x;
    const centre = item().viewerElementToImageCoordinates(new OpenSeadragon.Point(x, at.y));
    const enlarged = Math.max(LARGER * scale(), 1);
    const context = loupe.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    context.translate(size / 2, size / 2);
    if (flipped) context.scale(-1, 1);
    context.rotate((viewer.viewport.getRotation(true) * Math.PI) / 180);
    context.scale(enlarged, enlarged);
    context.translate(-centre.x, -centre.y);
    context.imageSmoothingEnabled = !isCrisp(enlarged);
    paint(context, item().getContentSize(), centre, size / enlarged);
  }
  // Only what is near, in the image's pixels: a whole photograph would be drawn anew with every move.
  function paint(context, content, centre, reach) {
    const left = Math.max(0, centre.x - reach);
    const top = Math.max(0, centre.y - reach);
    const width = Math.min(content.x, centre.x + reach) - left;
    const height = Math.min(content.y, centre.y + reach) - top;
    if (width <= 0 || height <= 0) return;
    const ratio = pixels.naturalWidth / content.x;
    context.drawImage(pixels, left * ratio, top * ratio, width * ratio, height * ratio, left, top, width, height);
  }

  // --- Other ways to look at it, computed when they are first asked for. ---
  const words = document.querySelector("[data-view-words]");
  const views = [...document.querySelectorAll("[data-view]")];
  let asked = 0;
  async function load(url) {
    const loaded = new Image();
    loaded.src = url;
    await loaded.decode();
    return loaded;
  }
  async function show(button) {
    if (!viewer) return;
    const mine = ++asked;
    words.classList.remove("wrong");
    words.textContent = "Working on it …";
    let loaded;
    try {
      loaded = button.dataset.url ? await load(button.dataset.url) : image;
    } catch {
      const why = await reason(button.dataset.url);
      if (mine === asked) complain(why);
      return;
    }
    if (mine !== asked) return;
    const isSpectrum = button.dataset.view === "spectrum";
    if (isSpectrum !== (picture.dataset.shows === "spectrum")) viewer.viewport.goHome(true);
    put(loaded, isSpectrum);
    views.forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
    picture.dataset.shows = button.dataset.view;
    words.textContent = button.dataset.words;
  }
  function complain(why) {
    words.classList.add("wrong");
    words.textContent = why;
  }
  // In words, from the problem that the server answers with.
  async function reason(url) {
    const answer = await fetch(url, { headers: { "HX-Request": "true" } }).catch(() => null);
    const page = new DOMParser().parseFromString((await answer?.text()) ?? "", "text/html");
    const problem = answer?.ok ? null : page.querySelector("[data-problem]");
    return problem?.textContent.trim().replace(/\s+/g, " ") || "This view could not be loaded. Try again.";
  }
  views.forEach((button) => button.addEventListener("click", () => show(button)));
  const next = document.querySelector("[data-next-view]");
  if (next) {
    next.addEventListener("click", () => {
      const now = views.findIndex((one) => one.getAttribute("aria-pressed") === "true");
      show(views[(now + 1) % views.length]);
    });
  }
})();
