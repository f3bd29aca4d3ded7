// How the drawing of the graph is moved: pointer, two fingers, wheel and keys.
Object.assign(GraphView.prototype, {
  gestures() {
    const down = new Map();
    let moved = 0;
    const local = (event) => {
      const { left, top } = this.svg.getBoundingClientRect();
      return { x: event.clientX - left, y: event.clientY - top };
    };
    const boxAt = (event) => {
      const found = event.target.closest && event.target.closest("[data-box]");
      return found ? Number(found.dataset.box) : undefined;
    };
    this.svg.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      down.set(event.pointerId, local(event));
      if (down.size === 1) moved = 0;
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (!down.has(event.pointerId)) {
        if (event.pointerType !== "touch") this.point(boxAt(event));
        return;
      }
      const was = down.get(event.pointerId), is = local(event);
      const other = [...down].find(([id]) => id !== event.pointerId);
      moved += Math.hypot(is.x - was.x, is.y - was.y);
      down.set(event.pointerId, is);
      if (other) {
        const away = (p) => Math.hypot(p.x - other[1].x, p.y - other[1].y) || 1;
        this.zoom(away(is) / away(was), (is.x + other[1].x) / 2, (is.y + other[1].y) / 2);
      } else if (moved > 4) {
        this.svg.setPointerCapture(event.pointerId);
        this.place(this.at.k, this.at.x + is.x - was.x, this.at.y + is.y - was.y);
      }
    });
    const up = (event) => {
      if (!down.delete(event.pointerId) || moved > 4 || event.type === "pointercancel") return;
      const box = boxAt(event);
      this.choose(box === undefined ? null : this.nameOf(box));
    };
    this.svg.addEventListener("pointerup", up);
    this.svg.addEventListener("pointercancel", up);
    this.svg.addEventListener("pointerleave", () => this.point(undefined));
    this.svg.addEventListener("dblclick", (event) => {
      const box = boxAt(event);
      if (box !== undefined && !this.drawn.boxes[box].single) {
        this.fold(this.drawn.boxes[box].path, true);
      }
    });
    this.svg.addEventListener("wheel", (event) => { // elsewhere the wheel scrolls the page
      if (!event.ctrlKey && document.activeElement !== this.svg) return;
      event.preventDefault();
      const { x, y } = local(event);
      this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), x, y);
    }, { passive: false });
  },

  /** The pointer is over this box; tell so only when that is news. */
  point(box) {
    if (box === this.pointed) return;
    this.pointed = box;
    this.refresh(box);
  },

  nameOf(box) {
    const { members } = this.drawn.boxes[box];
    return members[members.length - 1].name;
  },

  keys() {
    const moves = {
      ArrowDown: (i) => this.neighbour(i, 0, 1), ArrowUp: (i) => this.neighbour(i, 1, 0),
      ArrowRight: (i) => this.beside(i, 1), ArrowLeft: (i) => this.beside(i, -1),
    };
    this.svg.addEventListener("keydown", (event) => {
      const here = this.chosen === null ? undefined : this.home.get(this.chosen);
      if (moves[event.key]) {
        const there = here === undefined ? this.beside(-1, 1) : moves[event.key](here);
        if (there !== undefined) {
          this.choose(this.nameOf(there));
          this.centre(there, Math.max(this.at.k, 0.7));
        }
      } else if (event.key === "Enter" && here !== undefined && !this.drawn.boxes[here].single) {
        this.fold(this.drawn.boxes[here].path, true);
      } else if (event.key === "+" || event.key === "=") this.zoom(1.4);
      else if (event.key === "-") this.zoom(1 / 1.4);
      else if (event.key === "0") this.fit();
      else if (event.key === "Escape") this.choose(null);
      else return;
      event.preventDefault();
    });
  },

  seen(box) {
    return this.elements[box] && this.elements[box].style.display !== "none";
  },

  /** The first box that a line leads to from here, at its end `side`. */
  neighbour(box, own, side) {
    const line = this.drawn.lines.find((l) => l[own] === box && this.seen(l[side]));
    return line && line[side];
  },

  beside(box, way) {
    for (let i = box + way; i >= 0 && i < this.elements.length; i += way) {
      if (this.seen(i)) return i;
    }
    return undefined;
  },
});
