// Behaviour of a result: opacity, hidden classes, the name under the pointer, and clicks that explain a point.
// Gradio runs this once. The listeners stay on `element`, whose contents change with every result.
const find = (selector) => element.querySelector(selector);
const apply = () => {
  const opacity = find(".opacity"), names = find(".names");
  if (!opacity) return;
  find("svg").style.setProperty("--opacity", opacity.value / 100);
  find("svg").classList.toggle("nameless", !names.checked);
  for (const box of element.querySelectorAll("tbody input"))
    find(`g[data-class="${box.value}"]`).style.display = box.checked ? "" : "none";
};
let kept = {};  // the visitor's choices outlast a result
element.addEventListener("input", (event) => {
  if (event.target.matches(".opacity, .names"))
    kept = { opacity: find(".opacity").value, names: find(".names").checked };
  apply();
});
element.addEventListener("pointermove", (event) => {
  const label = find(".hovered"), path = event.target.closest("path");
  if (!label) return;
  label.hidden = !path;
  if (!path) return;
  const box = find(".viewer").getBoundingClientRect();
  label.textContent = path.dataset.name;
  label.style.left = `${event.clientX - box.left}px`;
  label.style.top = `${event.clientY - box.top}px`;
});
element.addEventListener("pointerleave", () => find(".hovered")?.setAttribute("hidden", ""));
element.addEventListener("click", (event) => {
  const svg = event.target.closest("svg");
  if (!svg) return;
  const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const across = (100 * x) / svg.viewBox.baseVal.width, down = (100 * y) / svg.viewBox.baseVal.height;
  if (across >= 0 && across <= 100 && down >= 0 && down <= 100)
    trigger("select", { across: Math.round(across), down: Math.round(down) });
});
watch("value", () => {
  if ("opacity" in kept && find(".opacity")) {
    find(".opacity").value = kept.opacity;
    find(".names").checked = kept.names;
    apply();
  }
});
