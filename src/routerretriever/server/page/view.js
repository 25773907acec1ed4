// Zoom and pan of an SVG: wheel, drag, keyboard, and what the buttons call.

const MOST = 40;
const STEP = 1.5;
const ARROWS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
const DRAG_BEGINS = 4; // pixels; less is a click

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Keeps a scale and an offset, and calls ``redraw`` when they change. */
export class View {
  constructor(element, redraw) {
    this.element = element;
    this.redraw = redraw;
    this.scale = 1;
    this.left = 0;
    this.top = 0;
    this.dragged = false;
    element.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    element.addEventListener("pointerdown", (event) => this.#onDown(event));
    element.addEventListener("keydown", (event) => this.#onKey(event));
  }

  get width() {
    return this.element.clientWidth;
  }

  get height() {
    return this.element.clientHeight;
  }

  /** Multiplies the scale; what is at (x, y) stays there. */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const scale = clamp(this.scale * factor, 1, MOST);
    const by = scale / this.scale;
    this.scale = scale;
    this.#moveTo(x - (x - this.left) * by, y - (y - this.top) * by);
  }

  zoomIn() {
    this.zoom(STEP);
  }

  zoomOut() {
    this.zoom(1 / STEP);
  }

  reset() {
    this.scale = 1;
    this.#moveTo(0, 0);
  }

  #moveTo(left, top) {
    const [width, height] = [this.width, this.height];
    this.left = clamp(left, width / 2 - width * this.scale, width / 2);
    this.top = clamp(top, height / 2 - height * this.scale, height / 2);
    this.redraw();
  }

  #onWheel(event) {
    if (event.deltaY > 0 && this.scale === 1) return; // nothing to zoom out of: the page scrolls on
    event.preventDefault();
    const box = this.element.getBoundingClientRect();
    this.zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
  }

  #onDown(event) {
    if (event.button !== 0) return;
    const from = { x: event.clientX, y: event.clientY, left: this.left, top: this.top };
    this.dragged = false;
    const move = (next) => {
      const [dx, dy] = [next.clientX - from.x, next.clientY - from.y];
      if (!this.dragged && Math.hypot(dx, dy) < DRAG_BEGINS) return;
      this.dragged = true;
      this.element.classList.add("dragging");
      this.#moveTo(from.left + dx, from.top + dy);
    };
    const end = () => {
      this.element.classList.remove("dragging");
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", end);
      removeEventListener("pointercancel", end);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", end);
    addEventListener("pointercancel", end);
  }

  #onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      const [dx, dy] = ARROWS[event.key];
      this.#moveTo(this.left + dx, this.top + dy);
    } else if (event.key === "+" || event.key === "=") this.zoomIn();
    else if (event.key === "-") this.zoomOut();
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }
}
