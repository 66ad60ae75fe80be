// Buttons below tables and figures save them: the CSV that the page holds, the SVG as it is drawn.
const page = location.pathname.split("/").pop().replace(/\.html$/, "");
function save(where, name, ending, type, content) {
  const button = document.createElement("button");
  button.textContent = name;
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content()], { type }));
    link.download = `${page}-${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  let files = where.querySelector(".files");
  if (!files) where.append(files = Object.assign(document.createElement("p"), { className: "files" }));
  files.append(button);
}
document.querySelectorAll(".table").forEach((table, number) => save(table, "CSV", `${number + 1}.csv`, "text/csv",
  () => table.querySelector("script").textContent.replaceAll("<\\/", "</")));
document.querySelectorAll("figure").forEach((figure, number) => {
  const drawings = figure.querySelectorAll(".panel svg");
  drawings.forEach((drawing, panel) => save(figure, `SVG${drawings.length > 1 ? ` ${panel + 1}` : ""}`,
    `${number + 1}.${panel + 1}.svg`, "image/svg+xml", () => new XMLSerializer().serializeToString(drawing)));
});
// A click on a column's name sorts by it: numbers from the largest, words from A, a second click
// the other way round. What has no number comes last.
const textOf = (row, place) => row.cells[place].textContent.replaceAll("−", "-").replaceAll(",", "");
function label(table) {  // names that the row above has, too, are not repeated; cards need all
  [...table.tBodies[0].rows].forEach((row, number, rows) => {
    let same = number > 0;
    for (const cell of row.querySelectorAll(".name")) {
      same &&= cell.nextElementSibling?.matches(".name") && textOf(rows[number - 1], cell.cellIndex) === textOf(row, cell.cellIndex);
      cell.classList.toggle("again", same);
    }
  });
}
for (const table of document.querySelectorAll(".table table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const columns = heads.map((_, place) => [...body.rows].map(row => textOf(row, place)));
  const numeric = cells => cells.some(text => !isNaN(parseFloat(text)));
  const names = Math.max(1, columns.findIndex(numeric));
  heads.forEach((head, place) => {
    const cells = columns[place], numbers = numeric(cells);
    const aligned = numbers && cells.every(text => /[\d)%]$|^(not run)?$/.test(text));
    const kind = place < names ? "name" : aligned ? "" : cells.some(text => text.length > 24) ? "long" : "text";
    if (kind) head.className = "left";
    for (const { cells: { [place]: cell } } of body.rows) {
      cell.dataset.label = head.textContent;
      cell.className = `${kind} ${cell.textContent.match(/(holds|fails|equal)$/)?.[0] ?? ""}`.trim();
    }
    if (cells.length < 3) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort") ?? (numbers ? "ascending" : "descending");
      const sign = now === "descending" ? 1 : -1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...[...body.rows].sort((one, other) => {
        const a = textOf(one, place), b = textOf(other, place), x = parseFloat(a), y = parseFloat(b);
        if (!numbers) return sign * a.localeCompare(b);
        return isNaN(x) - isNaN(y) || sign * (x - y) || 0;
      }));
      label(table);
    });
  });
  label(table);
}
// A table wider than its place shows its rows as cards; what scrolls is reached by the keyboard.
function fit() {
  for (const table of document.querySelectorAll(".table table")) {
    table.classList.remove("cards");
    table.classList.toggle("cards", table.scrollWidth > table.parentElement.clientWidth);
  }
  for (const each of document.querySelectorAll("pre, .scroll"))
    each.scrollWidth > each.clientWidth ? each.setAttribute("tabindex", 0) : each.removeAttribute("tabindex");
}
fit();
addEventListener("resize", fit);
document.addEventListener("toggle", fit, true);
