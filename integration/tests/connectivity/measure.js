
// Measures the page and appends the results to it.
const found = {clipped: [], corner: [], contrast: 99, dark: matchMedia('(prefers-color-scheme: dark)').matches, width: innerWidth};
const root = document.documentElement;
if (root.scrollWidth > innerWidth) found.clipped.push(`the page is ${root.scrollWidth} wide`);

const visible = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const channels = colour => colour.match(/[\d.]+/g).map(Number);
const luminance = colour => {
  const [r, g, b] = channels(colour).map(value => value / 255).map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if ((channels(colour)[3] ?? 1) > 0) return colour;
  }
  return 'rgb(255, 255, 255)';
};
// Of the largest networks, some rows stand for all.
const isSample = row => !row || row.parentElement.rows.length < 200 || row.rowIndex % 25 === 0;
const styles = new Set();
const range = document.createRange();
while (visible.nextNode()) {
  const text = visible.currentNode, element = text.parentElement;
  if (!text.data.trim() || element.closest('script, style, title, pre')) continue;
  if (!isSample(element.closest('.matrix tbody tr'))) continue;
  range.selectNodeContents(text);
  const box = range.getBoundingClientRect();
  const scroll = element.closest('.scroll');
  // A text must be inside of its cell, its picture, and what can be scrolled to.
  const frames = [element.closest('td, th, svg')?.getBoundingClientRect()];
  if (scroll) {
    const outer = scroll.getBoundingClientRect();
    const left = outer.left - scroll.scrollLeft, top = outer.top - scroll.scrollTop;
    frames.push({left, top, right: left + scroll.scrollWidth, bottom: top + scroll.scrollHeight});
    if (outer.left < 0 || outer.right > innerWidth) found.clipped.push('a scroll area is wider than the window');
  } else {
    frames.push({left: 0, top: 0, right: innerWidth, bottom: root.scrollHeight});
  }
  for (const frame of frames.filter(Boolean)) {
    if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) {
      found.clipped.push(text.data);
    }
  }
  const style = getComputedStyle(element), colour = element.closest('svg') ? style.fill : style.color;
  const key = `${colour} on ${background(element)}`;
  if (!styles.has(key)) {
    styles.add(key);
    const [low, high] = [luminance(colour), luminance(background(element))].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < found.contrast) Object.assign(found, {contrast, palest: `${text.data}: ${key}`});
  }
}
found.clipped = found.clipped.slice(0, 10);
found.rings = document.querySelectorAll('svg').length;
found.cells = document.querySelectorAll('.matrix td').length;

const buttons = document.querySelectorAll('.order button');
const rows = () => [...document.querySelectorAll('.matrix tbody tr')];
const numbers = () => rows().slice(0, 3).map(row => row.querySelector('b').textContent);
if (buttons.length) {
  found.bySubnet = numbers();
  buttons[1].click();
  found.worstFirst = numbers();
  found.worstColumns = [...document.querySelectorAll('.matrix thead th')].slice(1, 4).map(title => title.textContent);
  found.worstCorner = [rows()[0].cells[1].textContent, rows()[1].cells[1].textContent];
  buttons[0].click();
  found.again = numbers();
}
// Columns are below their titles, and the first cell of each row stays in sight.
const left = element => element.getBoundingClientRect().left;
found.misaligned = [];
for (const matrix of document.querySelectorAll('.matrix')) {
  const titles = matrix.querySelector('thead tr').cells, scroll = matrix.querySelector('.scroll');
  for (const row of [...matrix.querySelectorAll('tbody tr')].filter(isSample).slice(0, 20)) {
    found.misaligned.push(...[...row.cells].filter((cell, at) => Math.abs(left(cell) - left(titles[at])) > 1).map(cell => cell.textContent));
  }
  scroll.scrollIntoView();
  scroll.scrollTo(scroll.scrollWidth, 0);
  const box = scroll.getBoundingClientRect();
  found.corner.push(document.elementFromPoint(box.left + 9, box.top + 9).textContent);
}
const result = document.createElement('pre');
result.id = 'measured';
result.textContent = JSON.stringify(found);
document.body.append(result);
