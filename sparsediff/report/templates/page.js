"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  // Numbers for people: units are powers of 1000.
  const scaled = (value, units) => {
    let i = 0;
    while (value >= 999.5 && i < units.length - 1) { value /= 1000; i += 1; }
    return `${i === 0 && Number.isInteger(value) ? value : Number(value.toPrecision(3))} ${units[i]}`;
  };
  const show = {
    count: (n) => n.toLocaleString("en-US"),
    percent: (x) => {
      if (x === 0 || x === 1) return `${100 * x} %`;
      const rest = Math.min(x, 1 - x);
      return `${(100 * x).toFixed(rest >= 0.1 ? 1 : rest >= 0.01 ? 2 : rest >= 0.001 ? 3 : 5)} %`;
    },
    size: (n) => scaled(Math.round(n), ["B", "kB", "MB", "GB", "TB"]),
    rate: (n) => scaled(n, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]),
    times: (x) => (x < 10 ? x.toFixed(1) : Math.round(x).toLocaleString("en-US")),
    decimal: (x) => x.toFixed(2),
    duration: (s) => {
      if (s < 0.9995) return `${Number((1000 * s).toPrecision(3))} ms`;
      if (s < 99.5) return `${Number(s.toPrecision(3))} s`;
      const minutes = Math.floor(Math.round(s) / 60);
      return minutes < 60 ? `${minutes} min ${Math.round(s) % 60} s`
        : `${Math.floor(minutes / 60).toLocaleString("en-US")} h ${minutes % 60} min`;
    },
    text: (x) => x,
  };
  for (const span of document.querySelectorAll("[data-as]")) {
    span.textContent = show[span.dataset.as](Number(span.textContent));
  }

  // Figures. Colours are the style sheet's, so they follow light, dark and print by themselves.
  const views = {};
  const drawn = [...document.querySelectorAll("[data-figure]")].map(async (place) => {
    const key = place.dataset.figure;
    const options = { actions: false, renderer: "svg", ast: true, config: data.config,
      tooltip: { theme: "own" }, loader: { baseURL: "" } };
    views[key] = (await vegaEmbed(place, data.figures[key], options)).view;
  });

  // The cost model.
  const input = (name) => document.getElementById(name);
  const body = document.querySelector("#cost-table tbody");
  const cell = (row, tag, text) => {
    const made = row.appendChild(document.createElement(tag));
    made.textContent = text;
    return made;
  };
  const recount = () => {
    const bandwidth = 10 ** Number(input("bandwidth").value);
    const size = Math.round(10 ** Number(input("size").value));
    for (const [name, text] of [["bandwidth", show.rate(bandwidth)], ["size", show.size(size)]]) {
      input(`${name}-text`).textContent = text;
      input(name).setAttribute("aria-valuetext", text);
    }
    body.replaceChildren(...data.costs.map(({ what, share }) => {
      const row = document.createElement("tr");
      cell(row, "th", what).scope = "row";
      cell(row, "td", show.size(size * share));
      cell(row, "td", show.duration(8 * size * share / bandwidth));
      cell(row, "td", share === 1 ? "" : `${show.times(1 / share)} times less`);
      return row;
    }));
    if (views.costs) views.costs.signal("bandwidth", bandwidth).signal("size", size).runAsync();
  };
  const clamp = (name, value) => {
    const slider = input(name);
    // The very value, not the nearest notch: the table starts with the checkpoint's own size.
    slider.step = "any";
    slider.min = Math.min(slider.min, Math.floor(Math.log10(value)));
    slider.max = Math.max(slider.max, Math.ceil(Math.log10(value)));
    slider.value = Math.log10(value);
    slider.addEventListener("input", recount);
    slider.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      slider.value = Number(slider.value) + by * 0.05; // twenty to a power of ten
      recount();
    });
  };
  clamp("bandwidth", data.bandwidth);
  clamp("size", data.size);
  recount();

  // The table: of many rows only those in view are there.
  const columns = [
    ["tensor", "tensor", "text"], ["density", "density", "percent"], ["elements", "elements", "count"],
    ["untouched", "untouched", "count"], ["ones", "±1", "percent"], ["median", "median", "count"],
    ["largest", "largest", "count"], ["locality", "seen before", "percent"],
    ["patch", "in patches", "size"], ["dtype", "dtype", "text"], ["shape", "shape", "text"],
  ].filter(([key]) => data.columns[key].some((v) => v !== null));
  const n = data.columns.tensor.length;
  const lower = data.columns.tensor.map((name) => name.toLowerCase());
  const place = document.getElementById("scroll");
  const rows = document.querySelector("#tensors tbody");
  const table = document.getElementById("tensors");
  const HEIGHT = 30; // of a row, and
  const MOST = 560; // of all that is in view, as the style sheet has it
  let order = Array.from({ length: n }, (_, i) => i);
  let sorted = { key: null, down: false };
  let drawnFrom = -1;

  const compare = (values) => (a, b) => {
    const x = values[a], y = values[b];
    if (x === y) return a - b;
    if (x === null) return 1; // what has no figure comes last, whichever way
    if (y === null) return -1;
    const way = sorted.down ? -1 : 1;
    return way * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  };
  const spacer = (height) => {
    const row = document.createElement("tr");
    row.className = "space";
    row.setAttribute("aria-hidden", "true");
    const only = row.appendChild(document.createElement("td"));
    only.colSpan = columns.length;
    only.style.height = `${height}px`;
    return row;
  };
  const draw = (again) => {
    const visible = Math.ceil(MOST / HEIGHT);
    const from = Math.max(0, Math.floor(place.scrollTop / HEIGHT) - 10);
    if (!again && from === drawnFrom) return;
    drawnFrom = from;
    const to = Math.min(order.length, from + visible + 20);
    const made = order.slice(from, to).map((i, k) => {
      const row = document.createElement("tr");
      row.setAttribute("aria-rowindex", from + k + 2);
      for (const [key, , as] of columns) {
        const value = data.columns[key][i];
        const one = cell(row, "td", value === null ? "–" : show[as](value));
        if (key === "tensor") one.title = value;
      }
      return row;
    });
    rows.replaceChildren(spacer(from * HEIGHT), ...made, spacer((order.length - to) * HEIGHT));
  };
  const arrange = () => {
    const wanted = input("filter").value.trim().toLowerCase();
    order = [];
    for (let i = 0; i < n; i += 1) if (lower[i].includes(wanted)) order.push(i);
    if (sorted.key) order.sort(compare(data.columns[sorted.key]));
    input("shown").textContent = `${show.count(order.length)} of ${show.count(n)} tensors`;
    table.setAttribute("aria-rowcount", order.length + 1);
    place.scrollTop = 0;
    draw(true);
  };
  const head = document.querySelector("#tensors thead tr");
  for (const [key, title, as] of columns) {
    const th = head.appendChild(document.createElement("th"));
    th.scope = "col";
    const button = th.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = title;
    button.addEventListener("click", () => {
      sorted = { key, down: sorted.key === key ? !sorted.down : as !== "text" };
      for (const other of head.children) other.removeAttribute("aria-sort");
      th.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      arrange();
    });
  }
  place.addEventListener("scroll", () => draw(false), { passive: true });
  window.addEventListener("resize", () => draw(true));
  input("filter").addEventListener("input", arrange);
  arrange();

  Promise.all(drawn).then(() => { recount(); document.body.dataset.ready = "yes"; });
})();
