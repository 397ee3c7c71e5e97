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
