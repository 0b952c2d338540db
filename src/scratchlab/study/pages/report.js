// Draws the figures in the page's own colors, light or dark, and again when that changes.
const figures = JSON.parse(document.getElementById("figures").textContent);
const page = getComputedStyle(document.documentElement);

// "--helps" is the color of that name, "--helps/0.2" the same with so much of it showing.
function color(name) {
  const [, variable, alpha] = name.match(/^(--[a-z0-9-]+)(?:\/([\d.]+))?$/);
  const hex = page.getPropertyValue(variable).trim();
  if (!alpha) return hex;
  const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${parts.join(", ")}, ${alpha})`;
}

const COLORS = new Set(["color", "fillcolor"]);

function painted(value, key) {
  if (Array.isArray(value)) return value.map((one) => (one && typeof one === "object" ? painted(one) : one));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, painted(one, name)]));
  }
  return COLORS.has(key) && typeof value === "string" && value.startsWith("--") ? color(value) : value;
}

function dressed(layout) {
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--ink/0.6"), linecolor: color("--line") };
  return {
    ...layout,
    paper_bgcolor: "rgba(0, 0, 0, 0)",
    plot_bgcolor: "rgba(0, 0, 0, 0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: color("--ink") },
    hoverlabel: { bgcolor: color("--box"), bordercolor: color("--line"), font: { color: color("--ink") } },
    modebar: { bgcolor: "rgba(0, 0, 0, 0)", color: color("--soft"), activecolor: color("--ink") },
    xaxis: { ...axis, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
  };
}

function draw() {
  for (const place of document.querySelectorAll("[data-figure]")) {
    const figure = painted(figures[place.dataset.figure]);
    const bar = { responsive: true, displaylogo: false, displayModeBar: "hover" };
    Plotly.react(place, figure.data, dressed(figure.layout), bar);
  }
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
