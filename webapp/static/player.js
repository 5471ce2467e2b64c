// The before/after player with the report's timeline, on Gradio's page.

import { ReportPanel } from "./js/report_panel.js";
import { addStyleSheet } from "./js/theme.js";

/** element: of the gr.HTML; props.value: what Workshop.make returns, null for nothing; watch: Gradio's. */
export function mount(element, props, watch) {
  addStyleSheet();
  const panel = new ReportPanel({ emptyText: "empty", onHeight: () => {} });
  const page = document.createElement("div");
  page.className = "ls-page";
  page.append(panel.element);
  let shown = null;
  const show = () => {
    if (!page.isConnected) element.append(page); // Gradio writes its template anew
    if (!props.value || props.value === shown) return;
    shown = props.value;
    panel.show(JSON.parse(shown));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    page.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "nearest" });
  };
  watch("value", show);
  show();
}
