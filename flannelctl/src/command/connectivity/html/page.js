
for (const matrix of document.querySelectorAll('.matrix')) {
  const body = matrix.querySelector('tbody'), head = matrix.querySelector('thead tr'), table = body.parentElement;
  const titles = [...head.cells].slice(1);
  const rows = [...body.rows].map(row => ({row, cells: [...row.cells].slice(1), rank: Number(row.dataset.rank)}));
  const bySubnet = rows.map((_, at) => at);
  const worstFirst = [...bySubnet].sort((a, b) => rows[a].rank - rows[b].rank);
  const buttons = [...matrix.querySelectorAll('.order button')];
  buttons.forEach((button, at) => button.addEventListener('click', () => {
    const order = [bySubnet, worstFirst][at];
    // Moving a quarter of a million cells is fast outside of the page.
    body.remove();
    head.append(...order.map(at => titles[at]));
    for (const {row, cells} of rows) row.append(...order.map(at => cells[at]));
    body.append(...order.map(at => rows[at].row));
    table.append(body);
    buttons.forEach(other => other.setAttribute('aria-pressed', other === button));
  }));
  matrix.querySelector('.order').hidden = false;
}
