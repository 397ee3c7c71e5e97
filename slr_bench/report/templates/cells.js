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
