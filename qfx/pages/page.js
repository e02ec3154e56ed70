"use strict";
(function () {
  const root = document.documentElement;
  root.classList.remove("nojs");
  const all = (what, where) => Array.from((where || document).querySelectorAll(what));
  const theme = document.getElementById("theme");
  if (theme) theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // A page that follows work: what has changed is taken over, in place.
  if (root.hasAttribute("data-live")) setInterval(async () => {
    try {
      const text = await (await fetch(location.href, { cache: "no-store" })).text();
      const next = new DOMParser().parseFromString(text, "text/html");
      for (const part of ["main", "nav.toc"]) {
        const old = document.querySelector(part), fresh = next.querySelector(part);
        if (old.innerHTML !== fresh.innerHTML) old.innerHTML = fresh.innerHTML;
      }
    } catch (error) { /* the work has ended, or the command: what is shown stays */ }
  }, 2000);

  // Tables whose headings sort.
  all(root.hasAttribute("data-live") ? "none" : "table.sorts").forEach((table) => {
    const body = table.tBodies[0], heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === (head.classList.contains("n") ? "descending" : "ascending");
        const up = head.classList.contains("n") ? down : !down;
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => { const cell = row.cells[column]; return cell.dataset.v !== undefined ? parseFloat(cell.dataset.v) : cell.textContent.trim(); };
        const rows = Array.from(body.rows).filter((row) => !row.classList.contains("total"));
        rows.sort((a, b) => { const x = key(a), y = key(b); return (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true })) * (up ? 1 : -1); });
        body.prepend(...rows);
      });
    });
  });

  // Tables with a filter.
  all("input[data-filters]").forEach((input) => {
    const table = document.getElementById(input.dataset.filters), told = input.parentElement.querySelector(".told");
    input.addEventListener("input", () => {
      const text = input.value.trim().toLowerCase();
      let shown = 0;
      Array.from(table.tBodies[0].rows).forEach((row) => { row.hidden = text !== "" && !row.textContent.toLowerCase().includes(text); shown += row.hidden ? 0 : 1; });
      told.textContent = text ? shown + " shown" : "";
    });
  });

  // The graph: zoom, drag, search, details.
  const graph = document.querySelector(".graph");
  if (!graph) return;
  const svg = graph.querySelector("svg"), wide = svg.viewBox.baseVal.width, tall = svg.viewBox.baseVal.height;
  const boxes = all("a", svg), told = document.getElementById("found"), search = document.getElementById("search");
  let scale = 1;
  function zoom(to, x, y) {
    const next = Math.min(4, Math.max(0.08, to)), px = x === undefined ? graph.clientWidth / 2 : x, py = y === undefined ? graph.clientHeight / 2 : y;
    const left = (graph.scrollLeft + px) / scale, top = (graph.scrollTop + py) / scale;
    scale = next;
    svg.style.width = wide * scale + "px";
    svg.style.height = tall * scale + "px";
    graph.scrollLeft = left * scale - px;
    graph.scrollTop = top * scale - py;
  }
  const fit = () => zoom(Math.min(graph.clientWidth / wide, graph.clientHeight / tall, 1.5));
  zoom(Math.min(1, Math.max(0.6, graph.clientWidth / wide)), 0, 0);
  const on = (id, what) => document.getElementById(id).addEventListener("click", what);
  on("zoom-in", () => zoom(scale * 1.25)); on("zoom-out", () => zoom(scale / 1.25)); on("zoom-fit", fit); on("zoom-one", () => zoom(1));
  graph.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const at = graph.getBoundingClientRect();
    zoom(scale * Math.exp(-event.deltaY / 300), event.clientX - at.left, event.clientY - at.top);
  }, { passive: false });
  graph.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) panel.querySelector("button").click();
    if (event.key === "+" || event.key === "=") zoom(scale * 1.25); else if (event.key === "-") zoom(scale / 1.25); else if (event.key === "0") fit();
  });
  let drag = null, moved = false;
  graph.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse" && event.button === 0) { drag = [event.clientX, event.clientY, graph.scrollLeft, graph.scrollTop]; moved = false; } });
  addEventListener("pointermove", (event) => {
    if (!drag) return;
    if (Math.abs(event.clientX - drag[0]) + Math.abs(event.clientY - drag[1]) > 4) { moved = true; graph.classList.add("drag"); }
    graph.scrollLeft = drag[2] - event.clientX + drag[0]; graph.scrollTop = drag[3] - event.clientY + drag[1];
  });
  addEventListener("pointerup", () => { drag = null; graph.classList.remove("drag"); });
  graph.addEventListener("dragstart", (event) => event.preventDefault());
  function show(box) {
    const at = box.getBoundingClientRect(), frame = graph.getBoundingClientRect();
    graph.scrollLeft += at.left + at.width / 2 - frame.left - frame.width / 2;
    graph.scrollTop += at.top + at.height / 2 - frame.top - frame.height / 2;
  }
  let hits = [], hit = 0;
  search.addEventListener("input", () => {
    const text = search.value.trim().toLowerCase();
    hits = text ? boxes.filter((box) => box.dataset.k.includes(text)) : [];
    hit = 0;
    graph.classList.toggle("searching", text !== "");
    boxes.forEach((box) => box.classList.toggle("hit", hits.includes(box)));
    told.textContent = text ? hits.length + " found" : "";
    if (hits.length) show(hits[0]);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { search.value = ""; search.dispatchEvent(new Event("input")); }
    if (event.key !== "Enter" || !hits.length) return;
    open(hits[hit % hits.length]); show(hits[hit % hits.length]); hit += 1;
    told.textContent = ((hit - 1) % hits.length + 1) + " of " + hits.length;
  });
  const panel = document.getElementById("panel"), split = panel.parentElement;
  function open(box) {
    boxes.forEach((other) => other.classList.toggle("on", other === box));
    const row = document.querySelector(box.getAttribute("href")), heads = all("thead th", row.closest("table"));
    const title = document.createElement("h3"), list = document.createElement("dl"), close = document.createElement("button");
    title.className = "mono"; title.textContent = row.cells[0].textContent;
    Array.from(row.cells).forEach((cell, i) => {
      if (i === 0 || !cell.innerHTML.trim()) return;
      const term = document.createElement("dt"), told = document.createElement("dd");
      term.textContent = heads[i].textContent;
      if (cell.querySelector("svg")) { term.className = told.className = "hist"; }
      told.innerHTML = cell.innerHTML;
      list.append(term, told);
    });
    close.type = "button"; close.textContent = "Close";
    close.addEventListener("click", () => { panel.hidden = true; split.classList.remove("open"); box.classList.remove("on"); box.focus(); });
    panel.onkeydown = (event) => { if (event.key === "Escape") close.click(); };
    panel.replaceChildren(title, list, close);
    panel.hidden = false;
    split.classList.add("open");
  }
  boxes.forEach((box) => box.addEventListener("click", (event) => { event.preventDefault(); if (!moved) open(box); moved = false; }));
})();
