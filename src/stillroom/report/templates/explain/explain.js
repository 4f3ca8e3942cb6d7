/* The maps: drawn from bytes that the page holds, at the checkpoint that the slider selects. */
(() => {
  "use strict";
  const held = JSON.parse(document.getElementById("maps").textContent);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const grid = held.grid;
  const cells = grid * grid;
  const slider = document.getElementById("when");
  const shownText = document.getElementById("when-text");
  const play = document.getElementById("play");
  const beneath = document.getElementById("beneath");
  const chosen = { look: "entropy", seed: 0 };

  /* Bits, eight in a byte, the first the highest. */
  const isSet = (bits, place) => ((bits[place >> 3] >> (7 - (place & 7))) & 1) === 1;
  const foreground = bytes(held.foreground);
  const subject = (image, cell) => isSet(foreground, image * cells + cell);

  /* What a network's texts hold is unpacked when it is first looked at. */
  const unpacked = new Map();
  function network(side) {
    const packed = side === "teacher" ? held.teacher : held[side][chosen.seed];
    if (!unpacked.has(packed)) {
      unpacked.set(packed, {
        entropy: bytes(packed.entropy),
        concepts: bytes(packed.concepts),
        attribution: packed.attribution ? bytes(packed.attribution) : null,
      });
    }
    return unpacked.get(packed);
  }

  /* Where an image's map begins: a teacher has but one checkpoint, and so have attributions. */
  const start = (side, when, image) => ((side === "teacher" ? 0 : when) * held.images + image) * cells;

  const shades = (() => {
    const stops = held.ramp.map((text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)));
    return Array.from({ length: 256 }, (_, shade) => {
      const along = (shade / 255) * (stops.length - 1);
      const from = Math.min(Math.floor(along), stops.length - 2);
      return stops[from].map((value, at) => Math.round(value + (along - from) * (stops[from + 1][at] - value)));
    });
  })();

  /* Each cell is a pixel of a small canvas, which is then drawn large. */
  const small = document.createElement("canvas");
  small.width = small.height = grid;
  const smallContext = small.getContext("2d");

  function paint(context, width, height, shadeOf) {
    const pixels = smallContext.createImageData(grid, grid);
    for (let cell = 0; cell < cells; cell += 1) {
      const [red, green, blue] = shades[shadeOf(cell)];
      pixels.data.set([red, green, blue, 255], 4 * cell);
    }
    smallContext.putImageData(pixels, 0, 0);
    context.drawImage(small, 0, 0, width, height);
  }

  /* The border of a set of cells, along the edges to cells that are not in it. */
  function outline(context, width, height, has, colour, dash, scale) {
    /* On whole pixels, or between them where the line is odd, so that it is drawn sharp. */
    const thick = Math.max(Math.round(scale), 1);
    const sharp = (at, most) => Math.min(Math.max(Math.round(at), thick), most - 2 * thick) + (thick % 2) / 2;
    const across = (column) => sharp((column * width) / grid, width);
    const down = (row) => sharp((row * height) / grid, height);
    const path = new Path2D();
    const inside = (row, column) => row >= 0 && column >= 0 && row < grid && column < grid && has(row * grid + column);
    /* Edges that follow one another are one line, so that dashes run on. */
    const runs = (along, isEdge, draw) => {
      for (let from = 0; from < grid; from += 1) {
        if (!isEdge(from)) continue;
        let to = from + 1;
        while (to < grid && isEdge(to)) to += 1;
        draw(from, to);
        from = to;
      }
    };
    for (let at = 0; at <= grid; at += 1) {
      runs(at, (column) => inside(at - 1, column) !== inside(at, column), (from, to) => {
        path.moveTo(across(from), down(at));
        path.lineTo(across(to), down(at));
      });
      runs(at, (row) => inside(row, at - 1) !== inside(row, at), (from, to) => {
        path.moveTo(across(at), down(from));
        path.lineTo(across(at), down(to));
      });
    }
    context.lineCap = "square";
    context.setLineDash([]);
    context.strokeStyle = "rgba(0,0,0,.7)";
    context.lineWidth = 3 * thick;
    context.stroke(path);
    context.lineCap = "butt";
    context.setLineDash(dash.map((each) => each * scale));
    context.strokeStyle = colour;
    context.lineWidth = thick;
    context.stroke(path);
    context.setLineDash([]);
  }

  const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const SUBJECT = "#ff9bd2";

  function drawConcepts(context, width, height, side, when, image, scale) {
    const { concepts } = network(side);
    const now = start(side, when, image);
    const isCourse = side !== "teacher" && when > 0;
    const before = isCourse ? start(side, when - 1, image) : now;
    const [on, off] = [colourOf("--student"), colourOf("--lost")];
    for (let cell = 0; cell < cells; cell += 1) {
      const [is, was] = [isSet(concepts, now + cell), isSet(concepts, before + cell)];
      if (!is && !was) continue;
      const [row, column] = [Math.floor(cell / grid), cell % grid];
      const [left, top] = [(column * width) / grid, (row * height) / grid];
      const [wide, high] = [width / grid, height / grid];
      const colour = subject(image, cell) ? on : off;
      if (is) {
        context.fillStyle = colour;
        context.fillRect(left, top, wide, high);
        if (!was) {
          context.fillStyle = "#fff";
          context.beginPath();
          context.arc(left + wide / 2, top + high / 2, Math.min(wide, high) / 5, 0, 7);
          context.fill();
        }
      } else {
        context.strokeStyle = colour;
        context.lineWidth = scale;
        context.strokeRect(left + wide * 0.22, top + high * 0.22, wide * 0.56, high * 0.56);
      }
    }
  }

  function draw(canvas) {
    /* What is hidden has no width: it is drawn when it is shown. */
    if (!canvas.offsetParent) return;
    const { side } = canvas.dataset;
    const image = Number(canvas.dataset.image);
    const when = Number(slider.value);
    const scale = Math.max(devicePixelRatio || 1, 1);
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    const isSubject = (cell) => subject(image, cell);
    if (side !== "image") {
      const { look } = chosen;
      const { entropy, concepts, attribution } = network(side);
      const from = start(side, when, image);
      const isUnder = beneath.checked || look === "concepts";
      if (isUnder) {
        context.filter = "grayscale(1)";
        context.globalAlpha = look === "concepts" ? 0.45 : 1;
        context.drawImage(document.querySelector(`img[data-image="${image}"]`), 0, 0, width, height);
        context.filter = "none";
        context.globalAlpha = look === "concepts" ? 0.85 : 0.72;
      }
      if (look === "entropy") paint(context, width, height, (cell) => 255 - entropy[from + cell]);
      else if (look === "concepts") drawConcepts(context, width, height, side, when, image, scale);
      else if (attribution) paint(context, width, height, (cell) => attribution[image * cells + cell]);
      context.globalAlpha = 1;
      if (look === "attribution" && !attribution) {
        context.clearRect(0, 0, width, height);
      } else {
        outline(context, width, height, isSubject, SUBJECT, [4, 3], scale);
        if (look === "entropy") {
          outline(context, width, height, (cell) => isSet(concepts, from + cell), "#fff", [], scale);
        }
      }
    } else {
      outline(context, width, height, isSubject, SUBJECT, [4, 3], scale);
    }
  }

  function count(box) {
    const side = box.dataset.found;
    const image = Number(box.dataset.image);
    const { concepts } = network(side);
    const from = start(side, Number(slider.value), image);
    let [on, off] = [0, 0];
    for (let cell = 0; cell < cells; cell += 1) {
      if (!isSet(concepts, from + cell)) continue;
      if (subject(image, cell)) on += 1;
      else off += 1;
    }
    if (!box.firstChild) {
      for (const name of ["--student", "--lost"]) {
        const dot = document.createElement("i");
        dot.className = "dot";
        dot.style.background = `var(${name})`;
        box.append(dot, document.createElement("span"));
      }
    }
    const [first, second] = box.querySelectorAll("span");
    first.textContent = String(on);
    second.textContent = String(off);
    box.title = `${on} concept cells on the subject, ${off} on the background`;
  }

  const canvases = all("canvas[data-side]");
  const counts = all("[data-found]");
  let waiting = 0;
  function redraw() {
    const when = Number(slider.value);
    const epoch = held.epochs[when];
    const isFirst = epoch === 0 ? " (start)" : "";
    const words = `Epoch ${epoch}${isFirst}, after ${when + 1} of ${held.epochs.length} checkpoints`;
    shownText.textContent = words;
    slider.setAttribute("aria-valuetext", words);
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      canvases.forEach(draw);
      counts.forEach(count);
    });
  }

  let playing = 0;
  function stop() {
    clearInterval(playing);
    playing = 0;
    play.textContent = "▶ Play";
    play.setAttribute("aria-pressed", "false");
  }
  play.addEventListener("click", () => {
    if (playing) {
      stop();
      return;
    }
    if (slider.value === slider.max) slider.value = "0";
    play.textContent = "❚❚ Pause";
    play.setAttribute("aria-pressed", "true");
    redraw();
    playing = setInterval(() => {
      slider.value = String(Number(slider.value) + 1);
      redraw();
      if (slider.value === slider.max) stop();
    }, 800);
  });
  slider.addEventListener("input", () => {
    stop();
    redraw();
  });
  beneath.addEventListener("change", redraw);
  const large = document.getElementById("large");
  large.addEventListener("change", () => {
    document.getElementById("sheets").classList.toggle("large", large.checked);
    redraw();
  });

  for (const name of ["look", "seed"]) {
    for (const button of all(`[data-switch="${name}"] button`)) {
      button.addEventListener("click", () => {
        chosen[name] = name === "seed" ? Number(button.dataset.value) : button.dataset.value;
        redraw();
      });
    }
  }

  document.getElementById("more")?.addEventListener("click", (event) => {
    all("[data-late]").forEach((sheet) => { sheet.hidden = false; });
    event.currentTarget.remove();
    redraw();
  });

  /* The value under the pointer. */
  for (const canvas of canvases.filter((one) => one.dataset.side !== "image")) {
    canvas.addEventListener("mousemove", (event) => {
      const column = Math.min(Math.floor((event.offsetX / canvas.clientWidth) * grid), grid - 1);
      const row = Math.min(Math.floor((event.offsetY / canvas.clientHeight) * grid), grid - 1);
      const image = Number(canvas.dataset.image);
      const cell = Math.max(row, 0) * grid + Math.max(column, 0);
      const { entropy, concepts } = network(canvas.dataset.side);
      const at = start(canvas.dataset.side, Number(slider.value), image) + cell;
      const nats = held.low + (entropy[at] / 255) * (held.high - held.low);
      const value = nats.toFixed(2).replace("-", "\u2212");
      const what = isSet(concepts, at) ? "concept" : "no concept";
      canvas.title = `${value} nats, ${what} on the ${subject(image, cell) ? "subject" : "background"}`;
    });
  }

  addEventListener("resize", redraw);
  addEventListener("beforeprint", () => canvases.forEach(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });

  Promise.all(all("img[data-image]").map((image) => image.decode().catch(() => undefined))).then(redraw);
})();
