// Which widgets a node shows: the preset first, and of the others only those whose value counts.

const CUSTOM = "custom"; // no preset; what graphs and prompts mean that were made before there were presets
const WIDGET_HEIGHT = 20; // px of a plain widget in the classic renderer
const WIDGET_GAP = 4; // which it adds to every widget
const typesWithPresets = new Set();
// By widget: the choice of `face` that asks for it.
const FACE_DETAILS = { face_number: "number", face_x: "point", face_y: "point" };

/** Give a type of node its behaviour. nodeData: the host's description of it. */
export function arrangeWidgets(nodeType, nodeData, chain) {
  const specs = { ...nodeData.input?.required, ...nodeData.input?.optional };
  const decides = specs.preset?.[1]?.latentsync_decides; // {preset: {input: value}}
  const decidable = Object.assign({}, ...Object.values(decides ?? {}));
  chain(nodeType.prototype, "onNodeCreated", function () {
    const preset = decides ? this.widgets.find((widget) => widget.name === "preset") : null;
    if (preset) {
      this.latentsyncPresetAt = this.widgets.indexOf(preset); // where saved graphs have it
      this.widgets.splice(this.latentsyncPresetAt, 1);
      this.widgets.unshift(preset);
    }
    for (const widget of this.widgets ?? []) {
      if (widget.options?.advanced) widget.advanced = true; // the classic renderer does not look at the options
      if (widget.advanced || widget.name in FACE_DETAILS || widget.name in decidable) foldAway(widget, this);
      chain(widget, "callback", () => refresh(this, specs, decides));
    }
    refresh(this, specs, decides);
    if (this.widgets?.some((widget) => widget.hidden || widget.advanced)) this.setSize([this.size[0], this.computeSize()[1]]);
  });
  for (const event of ["onConfigure", "onConnectionsChange"])
    chain(nodeType.prototype, event, function () {
      refresh(this, specs, decides);
    });
  if (!decides) return;
  typesWithPresets.add(nodeData.name);
  keepPlaces(nodeType.prototype, chain);
}

/** A prompt in the API's form whose nodes without a preset mean none: a new node would begin with another one. */
export function withoutPresets(prompt) {
  const custom = (node) => (typesWithPresets.has(node?.class_type) ? { ...node, inputs: { preset: CUSTOM, ...node.inputs } } : node);
  return Object.fromEntries(Object.entries(prompt).map(([id, node]) => [id, custom(node)]));
}

/** Saved values keep the schema's order, as every release has written and read them. */
function keepPlaces(prototype, chain) {
  const { configure } = prototype;
  prototype.configure = function (info) {
    const at = this.latentsyncPresetAt;
    const { widgets_values: values } = info;
    if (at == null || !Array.isArray(values)) return configure.call(this, info);
    const preset = values.length > at ? values[at] : CUSTOM;
    return configure.call(this, { ...info, widgets_values: [preset, ...values.slice(0, at), ...values.slice(at + 1)] });
  };
  chain(prototype, "onSerialize", function (info) {
    const at = this.latentsyncPresetAt;
    if (at == null || !Array.isArray(info.widgets_values)) return;
    const [preset, ...others] = info.widgets_values;
    info.widgets_values = [...others.slice(0, at), preset, ...others.slice(at)];
  });
}

/** The classic renderer leaves a gap for the height that a widget gives while it is hidden. */
function foldAway(widget, node) {
  widget.computeSize = () => [0, node.isWidgetVisible(widget) ? WIDGET_HEIGHT : -WIDGET_GAP];
}

/**
 * Hide what the preset decides, and details of another choice of face. A value that was changed counts, so it shows.
 * Nodes 2.0 of front end 1.32 shows all, advanced ones too: it looks once, and would not bring a widget back.
 */
function refresh(node, specs, decides) {
  const decided = decides?.[valueOf(node, "preset")] ?? {};
  let changed = false;
  for (const widget of node.widgets ?? []) {
    const { name } = widget;
    const isDefault = widget.value === specs[name]?.[1]?.default;
    const counts = name in FACE_DETAILS ? detailCounts(node, name) : !(isDefault && name in decided);
    const hidden = !counts && !isLinked(node, name);
    if (hidden === Boolean(widget.hidden) || !(hidden || widget.latentsyncHidden)) continue;
    widget.latentsyncHidden = widget.hidden = hidden;
    changed = true;
  }
  if (!changed) return;
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  node.graph?.setDirtyCanvas(true, true);
}

/** A widget's value; undefined where a link brings it, so that nothing is known. */
function valueOf(node, name) {
  return isLinked(node, name) ? undefined : node.widgets.find((widget) => widget.name === name)?.value;
}

function detailCounts(node, name) {
  const face = valueOf(node, "face");
  return (face === undefined || face === FACE_DETAILS[name]) && !isLinked(node, "face_picture");
}

function isLinked(node, name) {
  return node.inputs?.some((input) => (input.widget?.name ?? input.name) === name && input.link != null) ?? false;
}
