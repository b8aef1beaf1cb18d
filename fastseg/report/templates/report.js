"use strict";
// Sorting, sliding and copying. Without this script the page still shows everything.
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

  // ---- gallery: one frame at a time, the chosen layer over the image, cut by the slider
  function makeViewer(viewer) {
    const slides = all(".slide", viewer), layers = all("button[data-layer]", viewer), moves = all("[data-go]", viewer);
    const [cut, opacity] = ["cut", "opacity"].map((name) => viewer.querySelector(`input.${name}`));
    const thumbnails = slides.map((slide, i) => thumbnail(slide, () => show(i)));
    viewer.querySelector(".thumbnails").append(...thumbnails);

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

  all("table.sortable").forEach(makeSortable);
  all("table.matrix").forEach((table) => makeReadable(table, document.querySelector(".readout")));
  all(".viewer").forEach(makeViewer);
  all("button[data-copies]").forEach(makeCopyable);
})();
