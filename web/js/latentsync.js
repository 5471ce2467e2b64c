// The pack's part of the front end: puts the widgets on the nodes and gives them what the nodes send.

import { app } from "../../../scripts/app.js";
import { BlendPreview } from "./blend_preview.js";
import { arrangeWidgets, withoutPresets } from "./knobs.js";
import { ReportPanel } from "./report_panel.js";
import { SampleOffer, allNodes, missingSamples } from "./samples.js";
import { addStyleSheet } from "./theme.js";

const MARGIN = 8; // CSS px around a widget in the classic renderer
const NODE_WIDTH = 380;

/** By node: the key of its ui output and what shows it. */
const PANELS = {
  LatentSyncLipSync: { key: "latentsync_report", make: (host) => new ReportPanel({ emptyText: "empty", ...host }) },
  LatentSyncReport: { key: "latentsync_report", make: (host) => new ReportPanel({ emptyText: "emptyReport", ...host }) },
  LatentSyncBlend: { key: "latentsync_blend", make: (host) => new BlendPreview(host) },
};

app.registerExtension({
  name: "LatentSync.widgets",

  init() {
    addStyleSheet();
    const load = app.loadApiJson;
    app.loadApiJson = function (prompt, ...given) {
      return load.call(this, withoutPresets(prompt), ...given);
    };
  },

  async beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name.startsWith("LatentSync")) arrangeWidgets(nodeType, nodeData, chain);
    const panel = PANELS[nodeData.name];
    if (!panel) return;
    chain(nodeType.prototype, "onNodeCreated", function () {
      attach(this, panel);
    });
    chain(nodeType.prototype, "onExecutionStart", function () {
      this.latentsync.heightBefore = this.size[1];
    });
    chain(nodeType.prototype, "onExecuted", function (output) {
      dropLivePreview(this);
      show(this, output);
    });
  },

  // Undo, a change of tab and a run from the history make new nodes; what they had shown is in the host's outputs.
  afterConfigureGraph() {
    showAll();
    offerSamples();
  },
  onNodeOutputsUpdated: showAll,
  refreshComboInNodes: offerSamples,
});

function attach(node, { key, make }) {
  const panel = make({ onHeight: () => grow(node), feather: () => maskSmooth(node) });
  const offer = new SampleOffer(() => node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]));
  panel.element.prepend(offer.element);
  node.latentsync = { key, panel, offer };
  const widget = node.addDOMWidget("latentsync", "latentsync", panel.element, {
    serialize: false, // nothing of it goes into the prompt
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: () => panel.minHeight + offer.height + 2 * MARGIN,
    onHide: () => panel.hide(),
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false; // nor into the workflow
  chain(widget, "onRemove", () => panel.destroy());
  node.size[0] = Math.max(node.size[0], NODE_WIDTH);
  passToCanvas(panel.element);
  const feather = node.widgets.find((other) => other.name === "mask_smooth");
  if (feather && panel instanceof BlendPreview) chain(feather, "callback", () => panel.refresh());
}

function show(node, output) {
  const { key, panel } = node.latentsync ?? {};
  const payloads = output?.[key] ?? []; // several where a list of videos made the node run as often
  if (payloads.length) panel.showAll(payloads);
}

function showAll() {
  for (const node of allNodes()) {
    const output = app.nodeOutputs?.[outputId(node)];
    if (output && node.latentsync && output !== node.latentsync.shown) {
      node.latentsync.shown = output;
      show(node, output);
    }
  }
}

async function offerSamples() {
  const missing = await missingSamples();
  for (const node of allNodes()) node.latentsync?.offer.show(missing);
}

/** Under which the host keeps a node's output. */
function outputId({ id, graph }) {
  return graph === graph.rootGraph ? String(id) : `${graph.id}:${id}`;
}

// Widgets that the front end adds while a node runs.
const LIVE = ["$$canvas-image-preview", "$$node-text-preview"];

/** The classic renderer keeps the last live preview and line below the widgets; what was made is shown now. */
function dropLivePreview(node) {
  node.imgs = undefined;
  delete app.nodePreviewImages?.[outputId(node)];
  const live = node.widgets.filter((widget) => LIVE.includes(widget.name));
  if (!live.length) return;
  for (const widget of live) {
    widget.onRemove?.();
    node.widgets.splice(node.widgets.indexOf(widget), 1);
  }
  node.setSize([node.size[0], Math.max(node.latentsync.heightBefore ?? 0, node.computeSize()[1])]);
}

/** The value of mask_smooth: the widget's, or that of the last run where a link brings it. */
function maskSmooth(node) {
  const { panel } = node.latentsync;
  const widget = node.widgets.find((other) => other.name === "mask_smooth");
  const linked = node.inputs?.some((input) => input.widget?.name === "mask_smooth" && input.link != null) ?? false;
  const value = Number((linked ? panel.payload?.mask_smooth : null) ?? widget?.value ?? 0.5);
  return { value: Math.min(1, Math.max(0, value)), linked };
}

/** Make room for what the panel shows; never smaller, a node drawn larger by hand stays so. */
function grow(node) {
  if (!node.latentsync) return;
  const { panel } = node.latentsync;
  const { panelHeight = 0 } = node.latentsync;
  const wanted = panel.fullHeight(node.size[0] - 2 * MARGIN);
  if (wanted <= panelHeight) return;
  node.latentsync.panelHeight = wanted;
  const smallest = node.computeSize();
  const height = smallest[1] - panel.minHeight + wanted;
  if (height > node.size[1]) node.setSize([node.size[0], height]);
  node.graph?.setDirtyCanvas(true, true);
}

/** The wheel and the middle button act on the graph over a widget, too. The Vue renderer does that by itself. */
function passToCanvas(target) {
  const inVueNode = () => target.closest(".lg-node") !== null;
  target.addEventListener("wheel", (event) => {
    if (inVueNode()) return;
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  });
  const middle = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" };
  for (const [kind, method] of Object.entries(middle))
    target.addEventListener(kind, (event) => {
      const isMiddle = kind === "pointermove" ? (event.buttons & 4) !== 0 : event.button === 1;
      if (isMiddle && !inVueNode()) app.canvas[method](event);
      else if (event.button !== 2 && !isMiddle && inVueNode() && !app.canvas.read_only) event.stopPropagation(); // else the node is dragged
    });
}

/** Call `after` each time the object's method has been called. */
function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...given) {
    const returned = before?.apply(this, given);
    after.apply(this, given);
    return returned;
  };
}
