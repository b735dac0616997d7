// The gallery: filter by kind of error, more on demand, and the slider between before and after.

const FIRST = 8;

function startGallery() {
  const list = byId("gallery-list");
  if (!list) return;
  const entries = [...list.children].map((node) => ({
    node,
    overall: node.dataset.overall === "1",
    gains: new Map(node.dataset.kinds.trim().split(/\s+/).filter(Boolean).map((part) => {
      const [kind, gain] = part.split(":");
      return [kind, Number(gain)];
    })),
  }));
  const select = byId("gallery-kind");
  const more = byId("gallery-more");
  let limit = FIRST;

  function show() {
    const kind = select.value;
    let chosen = entries;
    if (kind === "overall") chosen = entries.filter((entry) => entry.overall);
    else if (kind) {
      chosen = entries.filter((entry) => entry.gains.has(kind));
      chosen = [...chosen].sort((a, b) => b.gains.get(kind) - a.gains.get(kind));
    }
    for (const entry of entries) entry.node.hidden = true;
    chosen.forEach((entry, place) => {
      entry.node.hidden = place >= limit;
      list.append(entry.node); // in the order of the filter
    });
    const count = Math.min(limit, chosen.length);
    byId("gallery-count").textContent =
      count < chosen.length ? `${count} of ${chosen.length} images` : `${count} images`;
    more.hidden = count >= chosen.length;
  }

  select.disabled = false;
  select.addEventListener("change", () => {
    limit = FIRST;
    show();
  });
  more.addEventListener("click", () => {
    limit += FIRST;
    show();
  });
  for (const slider of list.querySelectorAll(".compare input")) {
    const move = () => slider.parentElement.style.setProperty("--cut", `${slider.value}%`);
    slider.addEventListener("input", move);
    move();
  }
  show();
  window.addEventListener("beforeprint", () => {
    for (const entry of entries.slice(0, 24)) entry.node.hidden = false;
  });
}
