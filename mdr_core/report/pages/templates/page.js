// A click on a column's name sorts the rows of each group by it: numbers from the largest, words
// from A, a second click the other way round. What has no number comes last.
for (const table of document.querySelectorAll("figure.table:not(.matrix) table")) {
  const heads = [...table.tHead.rows[0].cells];
  const rowsOf = body => [...body.rows].filter(row => row.className !== "group");
  const textOf = (row, place) => row.cells[place].textContent.replaceAll("−", "-").replaceAll(",", "");
  heads.forEach((head, place) => {
    const cells = [...table.tBodies].flatMap(rowsOf).map(row => textOf(row, place));
    if (head.tagName !== "TH" || cells.length < 3) return;
    const numbers = cells.some(text => !isNaN(parseFloat(text))) && !cells.every(text => /^[a-z]/i.test(text));
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort") ?? (numbers ? "ascending" : "descending");
      const sign = now === "descending" ? 1 : -1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const compare = (one, other) => {
        const a = textOf(one, place), b = textOf(other, place), x = parseFloat(a), y = parseFloat(b);
        if (!numbers) return sign * a.localeCompare(b);
        return isNaN(x) - isNaN(y) || sign * (x - y) || 0;
      };
      for (const body of table.tBodies) body.append(...rowsOf(body).sort(compare));
    });
  });
}
// Where nothing scrolls sideways, the keyboard need not stop.
for (const region of document.querySelectorAll(".scroll"))
  if (region.scrollWidth <= region.clientWidth) region.removeAttribute("tabindex");
