"use strict";
// A click on a head sorts its table; a field above a table filters its rows by their names; a click on a name in a
// legend hides what has its colour in the figures below, and shows it again.
(() => {
  const units = { k: 1e3, M: 1e6, G: 1e9 };

  // "0.7123", "+1.2 %", "12,345" and "1.5 M" are numbers; "-" and "undefined" are none and stay last.
  const value = (cell) => {
    const main = cell.querySelector("small, sup") ? cell.firstChild.textContent : cell.textContent;
    const found = main.trim().match(/^(?:< )?([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)(?: ([kMG%])\b|\s|$)?/);
    if (!found) return null;
    return Number(found[1].replaceAll(",", "")) * (units[found[2]] ?? 1);
  };

  const compare = (a, b, index, direction) => {
    if (index === 0) return direction * a.cells[0].textContent.localeCompare(b.cells[0].textContent);
    const [x, y] = [value(a.cells[index]), value(b.cells[index])];
    if (x === null || y === null) return (x === null) - (y === null);
    return direction * (x - y);
  };

  const sort = (table, head) => {
    const direction = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => compare(a, b, head.cellIndex, direction));
    table.tBodies[0].append(...rows);
  };

  const filter = (table, text) => {
    for (const row of table.tBodies[0].rows)
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(text.trim().toLowerCase());
  };

  const toggle = (button, colour, figures) => {
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(shown));
    for (const drawn of figures.querySelectorAll(`[style*="${colour}"], [stroke="${colour}"], [fill="${colour}"]`))
      drawn.classList.toggle("off", !shown);
  };

  for (const legend of document.querySelectorAll(".legend")) {
    const figures = legend.parentElement.querySelector(".grid");
    if (!figures || legend.children.length < 2) continue;
    for (const entry of legend.children) {
      const button = document.createElement("button");
      const colour = entry.querySelector("line").getAttribute("stroke");
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.append(...entry.childNodes);
      button.addEventListener("click", () => toggle(button, colour, figures));
      entry.append(button);
    }
  }

  for (const table of document.querySelectorAll("table.data")) {
    if (table.tBodies[0].rows.length < 2) continue;
    for (const head of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head));
      head.append(button);
    }
    if (!table.dataset.filter || table.tBodies[0].rows.length < 5) continue;
    const label = document.createElement("label");
    const field = document.createElement("input");
    label.className = "filter";
    field.type = "search";
    field.addEventListener("input", () => filter(table, field.value));
    label.append(`Filter ${table.dataset.filter} by name`, field);
    table.parentElement.before(label);
  }
})();
