"use strict";
// Each button names the tokens of its term: data-q in the query, data-d in the document. Tokens know their numbers in data-t.
const figure = document.querySelector(".figure");
const svg = figure.querySelector(".links");
const buttons = [...document.querySelectorAll("button[data-q], button[data-d]")];
const letters = ["q", "d"];
const numbers = (button, letter) => (button.dataset[letter] || "").split(" ").filter(Boolean);
const pieces = new Map();
for (const piece of document.querySelectorAll("[data-t]"))
  for (const name of piece.dataset.t.split(" ")) pieces.set(name, [...(pieces.get(name) || []), piece]);
const piecesOf = (button) => letters.flatMap((letter) => numbers(button, letter).flatMap((n) => pieces.get(letter + n) || []));
let links = [];

function build() {
  for (const button of figure.querySelectorAll("ol button"))
    for (const letter of letters)
      for (const n of numbers(button, letter)) {
        const piece = (pieces.get(letter + n) || [])[0];
        if (!piece) continue;
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        const strength = parseFloat(button.style.getPropertyValue("--s"));
        path.setAttribute("class", button.classList.contains("source") ? "source" : "english");
        path.setAttribute("stroke-width", (1 + 4 * strength).toFixed(1));
        svg.append(path);
        links.push({ button, piece, path, letter });
      }
}

function draw() {
  if (getComputedStyle(svg).display === "none") return;
  const origin = figure.getBoundingClientRect();
  const clamp = (y, box) => Math.min(Math.max(y, box.top), box.bottom);
  // all places are read before any path is written, so that the browser lays the page out once
  const places = links.map(({ button, piece, letter }) => {
    const row = button.getBoundingClientRect(), rows = button.closest(".pane").getBoundingClientRect();
    const word = piece.getClientRects()[0] || piece.getBoundingClientRect(), pane = piece.closest(".pane").getBoundingClientRect();
    const fromY = clamp(word.bottom - 1, pane), toY = clamp((row.top + row.bottom) / 2, rows);
    const from = [(letter === "q" ? word.right : word.left) - origin.left, fromY - origin.top];
    const to = [(letter === "q" ? row.left : row.right) - origin.left, toY - origin.top];
    return { from, to, away: fromY !== word.bottom - 1 || toY !== (row.top + row.bottom) / 2 };
  });
  places.forEach(({ from, to, away }, i) => {
    const middle = (from[0] + to[0]) / 2;
    links[i].path.setAttribute("d", `M${from[0]} ${from[1]}C${middle} ${from[1]} ${middle} ${to[1]} ${to[0]} ${to[1]}`);
    links[i].path.classList.toggle("away", away);
  });
}

let pinned = null;
function show(chosen) {
  for (const element of document.querySelectorAll(".on")) element.classList.remove("on");
  figure.classList.toggle("busy", chosen.length > 0);
  for (const button of chosen) {
    button.classList.add("on");
    for (const piece of piecesOf(button)) piece.classList.add("on");
  }
  for (const link of links) if (chosen.includes(link.button)) link.path.classList.add("on");
}
const rest = () => show(pinned ? [pinned] : []);

function reveal(button) {
  for (const letter of letters) {
    const piece = numbers(button, letter).flatMap((n) => pieces.get(letter + n) || [])[0];
    if (!piece) continue;
    const pane = piece.closest(".pane"), box = pane.getBoundingClientRect(), word = piece.getBoundingClientRect();
    if (word.top < box.top || word.bottom > box.bottom) pane.scrollTop += word.top - box.top - box.height / 2;
  }
}

for (const button of buttons) {
  button.addEventListener("pointerenter", () => show([button]));
  button.addEventListener("pointerleave", rest);
  button.addEventListener("focus", () => { show([button]); reveal(button); });
  button.addEventListener("blur", rest);
  button.addEventListener("click", () => {
    pinned = pinned === button ? null : button;
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === pinned));
    reveal(button);
    show([button]);
  });
}
for (const piece of new Set([...pieces.values()].flat())) {
  const mine = buttons.filter((button) => piecesOf(button).includes(piece));
  piece.addEventListener("pointerenter", () => show(mine));
  piece.addEventListener("pointerleave", rest);
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  pinned = null;
  for (const button of buttons) button.setAttribute("aria-pressed", "false");
  rest();
});
build();
draw();
for (const pane of figure.querySelectorAll(".pane")) pane.addEventListener("scroll", draw, { passive: true });
new ResizeObserver(draw).observe(figure);
document.fonts.ready.then(draw);
