/* The pages' own behaviour: theme, plots drawn as they come into view, curves shown or hidden, switches, rows that
   unfold, filter, sort, copy. */
(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const held = (id) => JSON.parse(document.getElementById(id).textContent);
  const figures = held("figures");
  const template = held("template");
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
      const isShade = (key) => key.endsWith("color") || key === "colorscale";
      return Object.fromEntries(Object.entries(part).map(([key, value]) => [key, shaded(value, isShade(key))]));
    }
    return isColour && Object.hasOwn(shades, part) ? shades[part] : part;
  }

  /* Plotly is large: it waits as text until the first plot comes near, so that the page answers at once. A run's page
     in a study's folder reads the study's, which is not there where the run was moved away. */
  function startPlotly() {
    const held = document.getElementById("plotly");
    if (globalThis.Plotly || !held) return Boolean(globalThis.Plotly);
    const script = document.createElement("script");
    script.textContent = held.textContent;
    document.head.append(script);
    return true;
  }

  /* A picture that leaves the page takes its title and its legend with it. */
  function saveButton(box) {
    const heading = box.parentNode.querySelector("h3").textContent;
    const title = heading.replace(/[&<>]/g, (letter) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[letter]);
    const save = () => {
      /* What a plot writes above its frame keeps its place, and the legend stands above it. */
      const isWritten = (box.layout.annotations ?? []).some((one) => one.yref === "paper" && one.y === 1);
      const above = isWritten ? box.layout.margin.t : 0;
      const height = box.clientHeight + 58 + above;
      return Plotly.downloadImage(
        {
          data: box.data,
          layout: {
            ...box.layout,
            title: { text: title, x: 0, xref: "paper", y: 1 - 42 / height, yanchor: "middle" },
            margin: { ...box.layout.margin, t: 84 + above, l: 16, r: 24, b: 16 },
            showlegend: true,
            legend: { orientation: "h", x: 0, y: 1.01 + above / box.clientHeight, yanchor: "bottom" },
          },
          config: { typesetMath: false },
        },
        { format: "png", scale: 2, width: box.clientWidth, height, filename: `stillroom-${box.dataset.plot}` },
      );
    };
    return { name: "save", title: "Save as a PNG", icon: Plotly.Icons.camera, click: save };
  }

  /* Names were placed for a wide plot: in a narrow one each goes where there is space, or is left to the numbers. */
  function placeNames(trace, layout, box) {
    const [wide, high] = [box.clientWidth - 70, box.clientHeight - 60];
    const share = (value, { type, range }) =>
      ((type === "log" ? Math.log10(value) : value) - range[0]) / (range[1] - range[0]);
    const points = trace.x.map((x, place) => [
      share(x, layout.xaxis) * wide,
      (1 - share(trace.y[place], layout.yaxis)) * high,
    ]);
    const taken = points.map(([x, y]) => [x - 8, y - 8, x + 8, y + 8]);
    const meets = (one, other) => one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];
    trace.text = trace.text.map((name, place) => {
      const [[x, y], long] = [points[place], 7 * name.length];
      const sides = { right: [x + 9, x + 9 + long], left: [x - 9 - long, x - 9], center: [x - long / 2, x + long / 2] };
      for (const [across, [from, to]] of Object.entries(name ? sides : {})) {
        for (const [upright, above] of [["top", y - 24], ["bottom", y + 6]]) {
          const at = [from, above, to, above + 18];
          if (from < 0 || to > wide || taken.some((other) => meets(at, other))) continue;
          trace.textposition[place] = `${upright} ${across}`;
          taken.push(at);
          return name;
        }
      }
      return "";
    });
  }

  const isSeen = (box) => box.offsetParent !== null;

  function draw(box) {
    /* What is hidden has no width: it is drawn when it is shown. */
    drawn.add(box);
    if (!isSeen(box)) return undefined;
    if (!startPlotly()) {
      box.textContent = "The plots need plotly.js of the study’s folder, which is not where it was.";
      return undefined;
    }
    const figure = structuredClone(figures[box.dataset.plot]);
    figure.layout.template = template;
    /* What the reader zoomed into stays when colours change. */
    figure.layout.uirevision = "kept";
    const { data, layout } = isDark() ? shaded(figure) : figure;
    for (const trace of data) {
      const isOff = hidden.has(trace.legendgroup) || (trace.meta === "band" && hidden.has("bands"));
      if (isOff && box.closest("#curves, #tasks")) trace.visible = false;
      if (trace.meta === "named" && box.clientWidth < 700) placeNames(trace, layout, box);
    }
    if (hidden.has("teacher") && layout.annotations && !box.closest("#relations")) layout.annotations = [];
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
    return Plotly.react(box, data, layout, config);
  }

  function drawPlots() {
    const boxes = all("[data-plot]");
    const watcher = new IntersectionObserver(
      (entries) => {
        for (const entry of entries.filter((one) => one.isIntersecting)) {
          watcher.unobserve(entry.target);
          draw(entry.target);
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

  const curveButtons = all("[data-curve]");
  function showCurve(button, shown) {
    if (shown) hidden.delete(button.dataset.curve);
    else hidden.add(button.dataset.curve);
    /* The same line may have a button in two places. */
    for (const twin of curveButtons) {
      if (twin.dataset.curve === button.dataset.curve) twin.setAttribute("aria-pressed", String(shown));
    }
  }
  for (const button of curveButtons) {
    showCurve(button, button.getAttribute("aria-pressed") === "true");
    button.addEventListener("click", () => {
      showCurve(button, hidden.has(button.dataset.curve));
      redraw();
    });
  }
  for (const button of all("[data-curves]")) {
    button.addEventListener("click", () => {
      for (const other of curveButtons) {
        if (other.dataset.curve !== "bands") showCurve(other, button.dataset.curves === "all");
      }
      redraw();
    });
  }

  /* In a narrow window a table that does not fit becomes a list: a row a block, a cell a line with its column's name. */
  const narrow = matchMedia("(max-width:760px)");
  const nameOf = (head) => {
    const text = [...head.childNodes].map((part) => (part.nodeName === "SMALL" ? " " : "") + part.textContent).join("");
    return text.replace(/\s+/g, " ").trim();
  };
  function fitTables(within) {
    const tables = all(".scroll table:not(.shaded)", within);
    for (const table of tables) table.classList.remove("stacked");
    if (!narrow.matches) return;
    for (const table of tables) {
      const { paddingLeft, paddingRight } = getComputedStyle(table.parentNode);
      const space = table.parentNode.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
      if (!table.tHead || space <= 0 || table.offsetWidth <= space + 1) continue;
      const heads = [...table.tHead.rows[0].cells].map((head) => head.dataset.name ?? nameOf(head));
      for (const row of [...table.tBodies].flatMap((body) => [...body.rows])) {
        [...row.cells].forEach((cell, place) => {
          /* From the right: a cell over several rows stands at the left of the first of them alone. */
          if (cell.colSpan === 1) cell.dataset.label = heads[heads.length - row.cells.length + place] ?? "";
          cell.classList.toggle("none", cell.textContent.trim() === "–");
        });
      }
      table.classList.add("stacked");
    }
  }
  addEventListener("resize", () => fitTables(document));
  narrow.addEventListener("change", redraw);
  addEventListener("toggle", (event) => fitTables(event.target), true);
  addEventListener("beforeprint", () => all(".stacked").forEach((table) => table.classList.remove("stacked")));
  fitTables(document);

  /* Switches: of the panels of one name, those with the chosen value are shown, wherever they are on the page. */
  function choose(name, value) {
    for (const button of all(`[data-switch="${name}"] button`)) {
      button.setAttribute("aria-pressed", String(button.dataset.value === value));
    }
    for (const panel of all(`[data-panel="${name}"]`)) {
      panel.hidden = panel.dataset.value !== value;
      if (!panel.hidden) all("[data-plot]", panel).filter((box) => drawn.has(box)).forEach(draw);
    }
    fitTables(document);
  }
  for (const group of all("[data-switch]")) {
    const name = group.dataset.switch;
    for (const button of all("button", group)) button.addEventListener("click", () => choose(name, button.dataset.value));
    const first = group.querySelector('[aria-pressed="true"]');
    if (first) choose(name, first.dataset.value);
  }

  for (const button of all("[data-unfold]")) {
    const row = document.getElementById(button.dataset.unfold);
    button.addEventListener("click", () => {
      row.hidden = !row.hidden;
      button.setAttribute("aria-expanded", String(!row.hidden));
      fitTables(document);
    });
  }

  for (const button of all("[data-show]")) {
    button.addEventListener("click", () => {
      const show = button.dataset.show;
      const cards = all(".card");
      cards.forEach((card) => { card.hidden = show !== "all" && card.dataset.group !== show; });
      all("[data-show]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      const count = cards.filter((card) => !card.hidden).length;
      const shown = show === "all" ? `all ${count}` : `${count} of ${cards.length}`;
      document.getElementById("shown").textContent = `Showing ${shown} ${cards.some((card) => card.querySelector("img")) ? "images" : "texts"}.`;
    });
  }

  function sortBy(header) {
    const table = header.closest("table");
    const place = [...header.parentNode.children].indexOf(header);
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    const body = table.tBodies[0];
    const isText = header.hasAttribute("data-text");
    const value = (row) => row.cells[place].dataset.value ?? row.cells[place].textContent;
    /* What has no number stays at the end, in either order. */
    const isEmpty = (row) => !isText && (value(row) === "" || Number.isNaN(Number(value(row))));
    const compare = (a, b) => {
      if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b);
      const [first, second] = [value(a), value(b)];
      const order = isText ? first.localeCompare(second, undefined, { numeric: true }) : first - second;
      return ascending ? order : -order;
    };
    /* A row that unfolds takes the row that it unfolds to along. */
    const rows = [...body.rows].filter((row) => !row.classList.contains("detail"));
    const follower = (row) => (row.nextElementSibling?.classList.contains("detail") ? [row.nextElementSibling] : []);
    const groups = new Map(rows.map((row) => [row, [row, ...follower(row)]]));
    body.append(...rows.sort(compare).flatMap((row) => groups.get(row)));
    all("th[aria-sort]", table).forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }
  for (const button of all(".sortable th[aria-sort] button")) {
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
