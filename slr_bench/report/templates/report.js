"use strict";
(() => {
// Light or dark: the system's choice until the button is pressed; kept where the browser allows it.
{
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const store = (value) => { try { return value ? localStorage.setItem("slr-bench-theme", value) : localStorage.getItem("slr-bench-theme"); } catch { return null; } };
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  const kept = store();
  if (kept) root.dataset.theme = kept;
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; store(root.dataset.theme); label(); });
  label();
  addEventListener("beforeprint", () => { for (const fold of document.querySelectorAll(".fold")) fold.open = true; });
}
// Tables sort by their headings; long ones can be filtered by words and by the values of some columns.
{
  const said = document.getElementById("said");
  // What a cell says, without the number of its footnote and its second line.
  const text = (cell) => [...cell.childNodes].filter((node) => !/^(SUP|SMALL)$/.test(node.nodeName)).map((node) => node.textContent).join("").trim();
  const key = (cell) => ("s" in cell.dataset ? Number(cell.dataset.s) : text(cell));
  const order = new Intl.Collator(undefined, { numeric: true });
  const isUnknown = (cell) => /^[–·]/.test(text(cell));

  const makeSortable = (table) => {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const sorter = document.createElement("button");
      sorter.type = "button";
      sorter.append(...[...head.childNodes].filter((node) => node.nodeName !== "SUP"));
      head.prepend(sorter);
      sorter.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
        const keyed = [...body.rows].map((row) => [row, key(row.cells[column]), isUnknown(row.cells[column])]);
        const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : order.compare(a, b));
        // What is unknown stays at the end in both directions.
        keyed.sort((a, b) => a[2] - b[2] || direction * compare(a[1], b[1]));
        body.append(...keyed.map((entry) => entry[0]));
      });
    });
    return heads;
  };

  const makeFilter = (table, heads) => {
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, words: row.textContent.toLowerCase(), cells: [...row.cells].map(text) }));
    const tools = document.createElement("div");
    tools.className = "tools";
    const labelled = (title, control) => {
      const label = document.createElement("label");
      label.append(title, control);
      tools.append(label);
      return control;
    };
    const words = labelled("Filter", Object.assign(document.createElement("input"), { type: "search", placeholder: "bf16 ok", size: 14 }));
    const chosen = heads.flatMap((head, column) => {
      const values = [...new Set(rows.map((one) => one.cells[column]))];
      if (!("choices" in head.dataset) || values.length < 2 || values.length > 40) return [];
      const select = document.createElement("select");
      select.append(new Option("all", ""), ...values.sort(order.compare).map((value) => new Option(value.slice(0, 60), value)));
      return [{ column, select: labelled(head.firstChild.textContent, select) }];
    });
    const count = document.createElement("span");
    tools.append(count);
    const apply = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const one of rows) {
        const isShown = wanted.every((word) => one.words.includes(word)) &&
          chosen.every(({ column, select }) => !select.value || one.cells[column] === select.value);
        if (one.row.hidden === isShown) one.row.hidden = !isShown;
        shown += isShown;
      }
      count.textContent = `${shown} of ${rows.length} rows`;
    };
    tools.addEventListener("input", apply);
    tools.addEventListener("change", () => { said.textContent = `${table.caption.textContent}: ${count.textContent}`; });
    apply();
    table.closest(".table").prepend(tools);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = makeSortable(table);
    if (table.tBodies[0].rows.length >= 24) makeFilter(table, heads);
  }
}
// Two cells side by side, each chosen from a list; the folded list below them is for pages without script.
for (const list of document.querySelectorAll(".cells")) {
  const folds = [...list.children];
  const inside = new Map(folds.map((fold) => [fold.lastElementChild.id, fold.lastElementChild]));
  const home = new Map(folds.map((fold) => [fold.lastElementChild.id, fold]));
  const opened = folds.filter((fold) => fold.open).concat(folds).slice(0, Math.min(2, folds.length));
  const picked = document.createElement("div");
  picked.className = "picked";
  const slots = opened.map((fold, place) => {
    const holder = document.createElement("div");
    const select = document.createElement("select");
    const label = document.createElement("label");
    label.append(place ? "beside it" : "Cell", select);
    const groups = new Map();
    for (const [id, one] of inside) {
      const workload = one.dataset.workload;
      if (!groups.has(workload)) groups.set(workload, Object.assign(document.createElement("optgroup"), { label: workload }));
      groups.get(workload).append(new Option(home.get(id).firstElementChild.textContent, id));
    }
    select.append(...groups.values());
    holder.append(label);
    picked.append(holder);
    return { holder, select, id: fold.lastElementChild.id };
  });
  const put = (slot, id) => { slot.id = id; slot.select.value = id; slot.holder.append(inside.get(id)); };
  const show = (slot, id) => {
    const other = slots.find((one) => one !== slot && one.id === id);
    const before = slot.id;
    if (other) put(other, before); else if (before !== id) home.get(before).append(inside.get(before));
    put(slot, id);
  };
  for (const slot of slots) {
    put(slot, slot.id);
    slot.select.addEventListener("change", () => show(slot, slot.select.value));
  }
  for (const one of inside.values()) one.tabIndex = -1;
  list.before(picked);
  list.hidden = true;
  const follow = (id) => {
    if (!inside.has(id)) return;
    if (!slots.some((slot) => slot.id === id)) show(slots.at(-1), id);
    inside.get(id).scrollIntoView({ block: "nearest" });
    inside.get(id).focus({ preventScroll: true });
  };
  addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#cell-"]');
    if (!link) return;
    event.preventDefault();
    history.replaceState(null, "", link.hash);
    follow(link.hash.slice(1));
  });
  addEventListener("hashchange", () => follow(location.hash.slice(1)));
  follow(location.hash.slice(1));
}
// One tooltip for all: footnotes, dots, tiles, and the values under the cursor of a timeline (mouse or arrow keys).
{
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const showAt = (x, y, content) => {
    tip.textContent = content;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 16 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 16}px`;
  };
  const content = (node) => {
    const at = node.closest?.(".plot .dot, sup a, .tiles li");
    if (!at) return null;
    if (at.title) { // the browser's own tooltip is for pages without script
      at.dataset.tip = at.title;
      at.removeAttribute("title");
    }
    if (at.dataset.tip) return at.dataset.tip;
    if (at.matches("sup a")) return document.getElementById(at.hash.slice(1))?.textContent;
    return at.textContent;
  };
  const bytes = (value) => {
    const [unit, size] = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10], ["B", 1]].find((one) => value >= one[1]) ?? ["B", 1];
    const scaled = value / size;
    return `${scaled >= 100 ? scaled.toFixed(0) : scaled >= 10 ? scaled.toFixed(1) : scaled.toFixed(2)} ${unit}`;
  };

  const HEIGHT = 500;
  // A path of steps as its height at each unit of x.
  const heights = (path) => {
    const found = [];
    let y = HEIGHT;
    for (const [, kind, number] of path.getAttribute("d").matchAll(/([hv])(-?\d+)/g)) {
      if (kind === "v") y += Number(number);
      else for (let place = 0; place < Number(number); place++) found.push(HEIGHT - y);
    }
    return found;
  };
  const phases = (path) => [...path.getAttribute("d").matchAll(/M(\d+) \d+h(\d+)/g)].map((one) => [Number(one[1]), Number(one[1]) + Number(one[2])]);
  const read = new WeakMap();
  const series = (area) => {
    if (!read.has(area)) {
      const paths = [...area.querySelectorAll("path")].map((path) => ({ path, name: path.textContent, isPhase: path.classList.contains("ph") }));
      const layers = paths.filter((one) => !one.isPhase).map((one) => ({ name: one.name, edge: heights(one.path) }));
      read.set(area, { layers, phases: paths.filter((one) => one.isPhase).map((one) => ({ name: one.name, spans: phases(one.path) })) });
    }
    return read.get(area);
  };
  const describe = (area, place) => {
    const { layers, phases: named } = series(area);
    const unit = Number(area.dataset.top) / HEIGHT;
    const phase = named.find((one) => one.spans.some(([start, end]) => place >= start && place < end));
    const lines = layers.map((one, index) => [one.name, (one.edge[place] - (layers[index + 1]?.edge[place] ?? 0)) * unit]);
    const total = `${phase ? `${phase.name}: ` : ""}≈ ${bytes(layers[0].edge[place] * unit)}`;
    return [total, ...(lines.length > 1 ? lines.filter((line) => line[1] > 0).sort((a, b) => b[1] - a[1]).map((line) => `${line[0]} ≈ ${bytes(line[1])}`) : [])].join("\n");
  };

  for (const area of document.querySelectorAll(".area")) {
    const field = area.querySelector(".field");
    const cursor = Object.assign(document.createElement("i"), { className: "cursor", hidden: true });
    const count = Number(area.dataset.n);
    let place = Math.floor(count / 2);
    field.append(cursor);
    field.tabIndex = 0;
    for (const title of area.querySelectorAll("title")) title.parentNode.setAttribute("aria-label", title.textContent);
    const point = (x, y) => {
      const box = field.getBoundingClientRect();
      cursor.hidden = false;
      cursor.style.left = `${(100 * (place + 0.5)) / count}%`;
      showAt(x ?? box.left + (box.width * (place + 0.5)) / count, y ?? box.top + box.height / 2, describe(area, place));
    };
    const leave = () => { cursor.hidden = true; hide(); };
    field.addEventListener("pointermove", (event) => {
      const box = field.getBoundingClientRect();
      place = Math.max(0, Math.min(count - 1, Math.floor(((event.clientX - box.left) / box.width) * count)));
      point(event.clientX, event.clientY);
    });
    field.addEventListener("pointerleave", leave);
    field.addEventListener("blur", leave);
    field.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -count, End: count }[event.key];
      if (!step) return;
      event.preventDefault();
      place = Math.max(0, Math.min(count - 1, place + step));
      point();
      document.getElementById("said").textContent = tip.textContent;
    });
  }
  const over = (event) => {
    const said = content(event.target);
    if (said) {
      const box = event.target.getBoundingClientRect();
      showAt(event.clientX ?? box.left, event.clientY ?? box.bottom, said);
    } else if (!event.target.closest?.(".area")) hide();
  };
  addEventListener("pointerover", over);
  addEventListener("focusin", over);
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}
})();
