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
