"use strict";
// Numbers at a cursor, sorting, sliding and copying. Without this script the page still shows everything.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- tables: a click on a column's head sorts up, down, then as it was
  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  function compare(a, b) {
    const [x, y] = [a, b].map((cell) => ("v" in cell.dataset ? parseFloat(cell.dataset.v) : cell.textContent.trim()));
    if (typeof x === "string") return x.localeCompare(y, "en", { numeric: true });
    return x - y;
  }

  function sorted(rows, column, order) {
    if (order === "none") return rows;
    const unknown = (row) => row.cells[column].dataset.v === "";
    const known = rows.filter((row) => !unknown(row));
    known.sort((a, b) => compare(a.cells[column], b.cells[column]) * (order === "ascending" ? 1 : -1));
    return [...known, ...rows.filter(unknown)];
  }

  function makeSortable(table) {
    const body = table.tBodies[0], rows = [...body.rows], heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const order = NEXT[head.getAttribute("aria-sort")];
        heads.forEach((other) => other.setAttribute("aria-sort", other === head ? order : "none"));
        body.append(...sorted(rows, column, order));
      });
    });
  }

  // ---- confusion matrix: the cell under the pointer in words
  function makeReadable(table, output) {
    const names = all("tbody th", table).map((head) => head.textContent);
    const hint = output.textContent;
    table.addEventListener("pointerover", (event) => {
      const cell = event.target.closest("tbody td");
      if (!cell) return void (output.textContent = hint);
      const [truth, prediction] = [names[cell.parentNode.rowIndex - 1], names[cell.cellIndex - 1]];
      const share = cell.textContent === "–" ? "no pixels" : `${cell.textContent || "less than 0.5"} %`;
      output.textContent = `${truth}, predicted as ${prediction}: ${share}`;
    });
    table.addEventListener("pointerleave", () => (output.textContent = hint));
  }

  // ---- charts: a cursor that follows pointer, finger and arrow keys
  const nearest = (xs, at) => xs.reduce((best, x, i) => (Math.abs(x - at) < Math.abs(xs[best] - at) ? i : best), 0);

  function readChart(svg) {
    const series = all(".series", svg).map((g) => ({
      ...g.dataset,
      pixels: [...g.querySelector("polyline").points].map((point) => point.x),
      xs: g.dataset.x.split(" "),
      ys: g.dataset.y.split(" "),
    }));
    return { svg, width: svg.viewBox.baseVal.width, line: svg.querySelector(".cursor"), series: series.reverse() };
  }

  // The points of a chart at pixel `at`; a line that has none nearby, since it ended before, is left out.
  function valuesAt(chart, at) {
    return chart.series.flatMap((one) => {
      const i = nearest(one.pixels, at);
      return Math.abs(one.pixels[i] - at) < chart.width / 12 ? [{ ...one, x: one.xs[i], y: one.ys[i] }] : [];
    });
  }

  function followCursor(area, charts, show) {
    const stops = [...new Set(charts.flatMap((c) => c.series.flatMap((s) => s.pixels)))].sort((a, b) => a - b);
    let current = stops.length - 1;
    if (!stops.length) return;
    function move(i) {
      current = Math.min(Math.max(i, 0), stops.length - 1);
      for (const { line } of charts) for (const end of ["x1", "x2"]) line.setAttribute(end, stops[current]);
      area.classList.add("at");
      show(stops[current]);
    }
    function leave() {
      area.classList.remove("at");
      show(null);
    }
    function point(event) {
      const chart = charts.find((c) => c.svg === event.target.closest("svg"));
      if (!chart) return;
      const box = chart.svg.getBoundingClientRect();
      move(nearest(stops, ((event.clientX - box.left) * chart.width) / box.width));
    }
    const KEYS = { ArrowLeft: () => move(current - 1), ArrowRight: () => move(current + 1) };
    Object.assign(KEYS, { Home: () => move(0), End: () => move(stops.length - 1), Escape: leave });
    area.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      KEYS[event.key]();
    });
    area.addEventListener("pointerdown", point);
    area.addEventListener("pointermove", point);
    area.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
    area.addEventListener("focus", () => area.matches(":focus-visible") && move(current));
    area.addEventListener("blur", leave);
    document.addEventListener("pointerdown", (event) => area.contains(event.target) || leave());
  }

  function element(tag, text, style) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    if (style) made.className = style;
    return made;
  }

  function makePlot(figure) {
    const chart = readChart(figure.querySelector("svg")), tip = element("div", "", "tip");
    const { axis, unit } = chart.svg.dataset;
    tip.setAttribute("role", "status");
    tip.hidden = true;
    figure.append(tip);
    followCursor(chart.svg, [chart], (at) => {
      const found = at === null ? [] : valuesAt(chart, at);
      tip.hidden = !found.length;
      if (tip.hidden) return;
      const rows = found.map(({ name, style, y }) => {
        const row = element("span");
        row.append(element("i", "", style), name, element("em", y + unit));
        return row;
      });
      tip.replaceChildren(element("b", `${axis} ${found[0].x}`), ...rows);
      const [box, outer] = [chart.svg.getBoundingClientRect(), figure.getBoundingClientRect()];
      const x = box.left - outer.left + (at * box.width) / chart.width;
      tip.style.left = `${x + 12 + tip.offsetWidth > outer.width ? Math.max(0, x - 12 - tip.offsetWidth) : x + 12}px`;
      tip.style.top = `${box.top - outer.top + 14}px`;
    });
  }

  // Small charts share one cursor; the number in each caption is the one at it.
  function makeMultiples(group) {
    const figures = all("figure", group), outputs = figures.map((figure) => all("output b", figure));
    const last = outputs.map((values) => values.map((value) => value.textContent));
    const charts = figures.map((figure) => readChart(figure.querySelector("svg")));
    const moment = document.querySelector(".moment");
    followCursor(group, charts, (at) => {
      const found = charts.map((chart) => (at === null ? [] : valuesAt(chart, at)));
      outputs.forEach((values, i) => values.forEach((value, j) => {
        const here = found[i].find(({ style }) => style === `s${j}`);
        value.textContent = at === null ? last[i][j] : here ? `${Number(here.y).toFixed(2)} %` : "–";
      }));
      const known = found.flat()[0];
      moment.textContent = known ? `Numbers are those of epoch ${known.x}.` : moment.dataset.last;
    });
  }

  // ---- gallery: one frame at a time, the chosen layer over the image, cut by the slider
  function makeViewer(viewer) {
    const slides = all(".slide", viewer), layers = all("button[data-layer]", viewer), moves = all("[data-go]", viewer);
    const [cut, opacity] = ["cut", "opacity"].map((name) => viewer.querySelector(`input.${name}`));
    const thumbnails = slides.map((slide, i) => thumbnail(slide, () => show(i)));
    thumbnails.forEach((button, i) => {
      const { kind } = slides[i].dataset;
      if (!i || kind !== slides[i - 1].dataset.kind) viewer.querySelector(".thumbnails").append(element("span", kind, "group"));
      viewer.querySelector(".thumbnails").append(button);
    });
    all(".pair", viewer).forEach(completePair);

    let current = 0;
    function show(i) {
      current = (i + slides.length) % slides.length;
      slides.forEach((slide, j) => slide.classList.toggle("current", j === current));
      thumbnails.forEach((button, j) => button.setAttribute("aria-current", j === current));
      viewer.querySelector(".where").textContent = `${current + 1} of ${slides.length}`;
    }

    function choose(name) {
      layers.forEach((button) => button.setAttribute("aria-pressed", button.dataset.layer === name));
      all(".layer", viewer).forEach((layer) => layer.classList.toggle("chosen", layer.dataset.layer === name));
      viewer.querySelector(".right").textContent = name;
    }

    function slide() {
      viewer.style.setProperty("--cut", `${cut.value}%`);
      viewer.style.setProperty("--opacity", opacity.value / 100);
    }

    function drag(event) {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = event.currentTarget.getBoundingClientRect();
      if (event.type === "pointerdown") event.currentTarget.setPointerCapture(event.pointerId);
      cut.value = (100 * (event.clientX - box.left)) / box.width;
      slide();
    }

    const KEYS = { ArrowUp: () => show(current - 1), ArrowDown: () => show(current + 1) };
    layers.forEach((button, i) => (KEYS[i + 1] = () => choose(button.dataset.layer)));
    viewer.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey || event.target === opacity) return;
      event.preventDefault();
      KEYS[event.key]();
    });
    for (const stage of all(".stage", viewer)) {
      stage.addEventListener("pointerdown", drag);
      stage.addEventListener("pointermove", drag);
    }
    layers.forEach((button) => button.addEventListener("click", () => choose(button.dataset.layer)));
    moves.forEach((button) => button.addEventListener("click", () => show(current + Number(button.dataset.go))));
    [cut, opacity].forEach((range) => range.addEventListener("input", slide));
    all("[hidden]", viewer).forEach((element) => (element.hidden = false));
    viewer.classList.add("live");
    show(0);
    choose("prediction");
    slide();
  }

  // Image and truth of a frame are on the page once, and laid under the pictures of both runs.
  function completePair(pair) {
    const [first, second] = all(".stage", pair);
    const shared = all("[data-layer=image], [data-layer=truth]", first).map((layer) => layer.cloneNode(true));
    second.prepend(...shared.filter(({ dataset }) => !second.querySelector(`[data-layer=${dataset.layer}]`)));
  }

  function thumbnail(slide, open) {
    const button = document.createElement("button"), picture = new Image();
    picture.src = slide.querySelector("img")?.src ?? "data:,";
    picture.alt = slide.dataset.key;
    button.type = "button";
    button.append(picture, slide.dataset.iou);
    button.addEventListener("click", open);
    return button;
  }

  // ---- the command
  function makeCopyable(button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      getSelection().selectAllChildren(document.getElementById(button.dataset.copies));
      document.execCommand("copy"); // works in pages opened from a folder, where navigator.clipboard may not
      button.textContent = "copied";
    });
  }

  addEventListener("beforeprint", () => all("details").forEach((details) => (details.open = true)));
  all(".plot").forEach(makePlot);
  all(".multiples").forEach(makeMultiples);
  all("table.sortable").forEach(makeSortable);
  all("table.matrix").forEach((table) => makeReadable(table, document.querySelector(".readout")));
  all(".viewer").forEach(makeViewer);
  all("button[data-copies]").forEach(makeCopyable);
})();
