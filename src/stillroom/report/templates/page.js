/* The page's own behaviour: theme, plots drawn as they come into view, curves shown or hidden, filter, sort, copy. */
(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const held = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = held("figures");
  const shades = held("shades");
  const hidden = new Set();
  const drawn = new Set();
  const systemDark = matchMedia("(prefers-color-scheme: dark)");

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);

  /* Figures are written in the light colours; the dark theme looks each of them up. Only under keys that hold a
     colour: a class may be called "#ffffff". */
  function shaded(part, isColour = false) {
    if (Array.isArray(part)) return part.map((item) => shaded(item, isColour));
    if (part && typeof part === "object") {
      return Object.fromEntries(Object.entries(part).map(([key, value]) => [key, shaded(value, key.endsWith("color"))]));
    }
    return isColour && Object.hasOwn(shades, part) ? shades[part] : part;
  }

  /* Plotly is large: it waits as text until the first plot comes near, so that the page answers at once. */
  function startPlotly() {
    if (globalThis.Plotly) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("plotly").textContent;
    document.head.append(script);
  }

  /* A picture that leaves the page takes its title and its legend with it. */
  function saveButton(box) {
    const heading = box.parentNode.querySelector("h3").textContent;
    const title = heading.replace(/[&<>]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[letter]);
    const save = () => Plotly.downloadImage(
      {
        data: box.data,
        layout: {
          ...box.layout,
          title: { text: title, x: 0, xref: "paper" },
          margin: { ...box.layout.margin, t: 84, l: 16, r: 24, b: 16 },
          showlegend: true,
          legend: { orientation: "h", x: 0, y: 1.01, yanchor: "bottom" },
        },
        config: { typesetMath: false },
      },
      { format: "png", scale: 2, width: box.clientWidth, height: box.clientHeight + 58, filename: `stillroom-${box.dataset.plot}` },
    );
    return { name: "save", title: "Save as a PNG", icon: Plotly.Icons.camera, click: save };
  }

  function draw(box) {
    startPlotly();
    const figure = structuredClone(figures[box.dataset.plot]);
    const { data, layout } = isDark() ? shaded(figure) : figure;
    for (const trace of data) {
      if (hidden.has(trace.legendgroup) && box.closest("#curves")) trace.visible = false;
    }
    if (hidden.has("teacher") && layout.annotations) layout.annotations = [];
    /* A finger that moves over a plot scrolls the page; zooming is for pointers. */
    if (matchMedia("(pointer: coarse)").matches) layout.dragmode = false;
    /* The buttons are listed, not left to plotly: among its own is one that sends the plot to a server. */
    const zooms = layout.xaxis.fixedrange ? [] : ["zoom2d", "pan2d", "resetScale2d"];
    const config = {
      responsive: true,
      displaylogo: false,
      typesetMath: false,
      plotlyServerURL: "",
      modeBarButtons: [[saveButton(box)], zooms],
    };
    drawn.add(box);
    return Plotly.react(box, data, layout, config);
  }

  function drawPlots() {
    const boxes = all("[data-plot]");
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const entry of entries.filter((one) => one.isIntersecting)) {
          watcher.unobserve(entry.target);
          if (!drawn.has(entry.target)) draw(entry.target);
        }
      },
      { rootMargin: "400px" },
    );
    boxes.forEach((box) => watcher.observe(box));
  }

  function redraw() {
    drawn.forEach(draw);
  }

  const themeButton = document.getElementById("theme");
  function nameTheme() {
    themeButton.textContent = isDark() ? "Light theme" : "Dark theme";
  }
  function setTheme(theme) {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    nameTheme();
    redraw();
  }
  themeButton.hidden = false;
  nameTheme();
  themeButton.addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  systemDark.addEventListener("change", () => setTheme(root.dataset.theme));

  for (const button of all("[data-curve]")) {
    button.addEventListener("click", () => {
      const group = button.dataset.curve;
      if (hidden.has(group)) hidden.delete(group);
      else hidden.add(group);
      button.setAttribute("aria-pressed", String(!hidden.has(group)));
      redraw();
    });
  }

  for (const button of all("[data-show]")) {
    button.addEventListener("click", () => {
      const show = button.dataset.show;
      const cards = all(".card");
      cards.forEach((card) => { card.hidden = show !== "all" && card.dataset.group !== show; });
      all("[data-show]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      const count = cards.filter((card) => !card.hidden).length;
      const told = show === "all" ? `all ${count}` : `${count} of ${cards.length}`;
      document.getElementById("shown").textContent = `Showing ${told} images.`;
    });
  }

  function sortBy(header) {
    const table = header.closest("table");
    const place = [...header.parentNode.children].indexOf(header);
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    const body = table.tBodies[0];
    const value = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const compare = (a, b) => {
      const [first, second] = [value(a), value(b)];
      const order = place === 0 ? first.localeCompare(second, undefined, { numeric: true }) : first - second;
      return ascending ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    all("th[aria-sort]", table).forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }
  for (const button of all(".sortable th button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    let done = true;
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      /* A page opened from a file may be refused the clipboard: select the text, which is copied the old way. */
      getSelection().selectAllChildren(source);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  }
  for (const button of all("[data-copy]")) button.addEventListener("click", () => copy(button));

  /* Paper is white, and what is not in view is printed too. */
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme ?? "";
    root.dataset.theme = "light";
    nameTheme();
    all("[data-plot]").forEach(draw);
  });
  addEventListener("afterprint", () => setTheme(before));

  drawPlots();
})();
