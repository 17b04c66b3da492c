"use strict";
(function () {
  const drawn = new Map();
  const narrow = () => window.innerWidth < 600;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(layout) {
    const axis = { gridcolor: color("--grid"), linecolor: color("--line"), tickcolor: color("--line") };
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: layout.plot_bgcolor || "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: narrow() ? 11 : 13, color: color("--ink") },
      xaxis: { ...layout.xaxis, ...axis },
      yaxis: { ...layout.yaxis, ...axis },
      hoverlabel: { ...layout.hoverlabel, bgcolor: color("--panel"), font: { color: color("--ink") } },
      annotations: narrow() ? [] : layout.annotations,
      dragmode: window.matchMedia("(pointer: coarse)").matches ? false : "zoom",
    };
  }

  function draw(chart) {
    if (drawn.has(chart)) return;
    const source = document.querySelector('script[data-chart="' + chart.id + '"]');
    const figure = JSON.parse(source.textContent);
    drawn.set(chart, figure);
    Plotly.newPlot(chart, figure.data, themed(figure.layout), {
      responsive: true,
      displaylogo: false,
      displayModeBar: narrow() ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      showTips: false,
    });
  }

  const charts = [...document.querySelectorAll(".chart")];
  const all = () => charts.forEach(draw);
  const again = () => drawn.forEach((figure, chart) => Plotly.relayout(chart, themed(figure.layout)));

  if ("IntersectionObserver" in window) {
    const watch = new IntersectionObserver(
      (entries) =>
        entries.forEach((entry) => {
          if (!entry.isIntersecting) return;
          watch.unobserve(entry.target);
          draw(entry.target);
        }),
      { rootMargin: "600px" }
    );
    charts.forEach((chart) => watch.observe(chart));
  } else {
    all();
  }
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  window.addEventListener("beforeprint", () => {
    all();
    document.querySelectorAll("details").forEach((each) => (each.open = true));
    again();
  });
})();
