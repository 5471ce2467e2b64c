// The files that the templates open: an offer to have them written, wherever a graph names one that is missing.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { element } from "./elements.js";
import { text } from "./texts.js";

const ADDRESS = "/latentsync/samples";
const SAMPLE = /^latentsync_(sample|speech|speech_2|two_people)\.\w+$/;
const HEIGHT = 112; // CSS px

/** A few words and a button; hidden as long as nothing is missing. onShown(): it has appeared or gone. */
export class SampleOffer {
  constructor(onShown) {
    this.onShown = onShown;
    this.words = element("div", "", { role: "status" });
    this.button = element("button", "ls-button", { type: "button" }, text("writeSamples"));
    this.button.addEventListener("click", () => this.write());
    this.element = element("div", "ls-offer", {}, this.words, this.button);
    this.element.hidden = true;
  }

  get height() {
    return this.element.hidden ? 0 : HEIGHT;
  }

  show(missing) {
    const hidden = !missing.length;
    if (!hidden) this.words.textContent = text("samplesMissing");
    if (hidden === this.element.hidden) return;
    this.element.hidden = hidden;
    this.onShown();
  }

  async write() {
    this.button.disabled = true;
    this.words.textContent = text("samplesComing");
    try {
      const answer = await api.fetchApi(ADDRESS, { method: "POST" });
      if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `${answer.status} ${answer.statusText}`);
      await app.refreshComboInNodes(); // which asks again what is missing, see latentsync.js
      for (const widget of sampleWidgets()) widget.callback?.(widget.value); // the nodes' own players
    } catch (error) {
      this.words.textContent = error.message;
    } finally {
      this.button.disabled = false;
    }
  }
}

/** Names of samples that the open graph wants and the server lacks. */
export async function missingSamples() {
  const wanted = new Set(sampleWidgets().map((widget) => widget.value));
  if (!wanted.size) return [];
  const answer = await api.fetchApi(ADDRESS, { cache: "no-store" });
  return answer.ok ? (await answer.json()).missing.filter((name) => wanted.has(name)) : [];
}

/** All nodes, those in subgraphs too. */
export function allNodes() {
  return [app.graph, ...(app.graph?.subgraphs?.values() ?? [])].flatMap((graph) => graph?.nodes ?? []);
}

function sampleWidgets() {
  return allNodes()
    .flatMap((node) => node.widgets ?? [])
    .filter((widget) => widget.type === "combo" && SAMPLE.test(widget.value));
}
