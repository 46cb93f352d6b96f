for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const th = button.closest("th"), body = th.closest("table").tBodies[0], column = th.cellIndex;
    const number = th.classList.contains("n");
    const first = number ? "descending" : "ascending", other = number ? "ascending" : "descending";
    const order = th.getAttribute("aria-sort") === first ? other : first;
    for (const each of th.parentNode.children) each.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", order);
    const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
    const compare = number ? (a, b) => Number(key(a)) - Number(key(b)) : (a, b) => key(a).localeCompare(key(b));
    const sign = order === "ascending" ? 1 : -1;
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  });
}
