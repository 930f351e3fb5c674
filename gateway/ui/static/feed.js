// The live figures of queues: one stream, which is opened again when it ends. Paused, it is closed.

import { ApiError, events } from "./api.js";

const RETRY_MS = [1000, 2000, 5000, 10000];

export class Feed {
  /** queues: the newest figures by name. left: how many further queues there are. servers: how many Kestrel servers
   * there are. changed(rows, gone): called with what is new. state(word, cause): called when the feed is connecting,
   * live, paused, lost or refused; cause: an Error. */
  constructor({ changed, state }) {
    this.queues = new Map();
    this.coverage = null;
    this.left = 0;
    this.servers = 0;
    this.paused = false;
    this._changed = changed;
    this._state = state;
    this._filters = [];
    this._byServer = false;
    this._stop = null;
    this._tries = 0;
    this._timer = 0;
  }

  /** Follows the queues that match every filter, from now on. byServer: also their figures on each server. */
  follow(filters, byServer = false) {
    this._filters = filters;
    this._byServer = byServer;
    this._tries = 0;
    this._open(true);
  }

  pause() {
    this.paused = true;
    this._close();
    this._state("paused");
  }

  resume() {
    this.paused = false;
    this._open(false);
  }

  close() {
    this._close();
  }

  _close() {
    clearTimeout(this._timer);
    this._stop?.abort();
    this._stop = null;
  }

  async _open(fresh) {
    this._close();
    if (fresh) this.queues.clear();
    else if (this.paused) return;
    const stop = new AbortController();
    let parts = []; // of one round
    this._stop = stop;
    this._state("connecting");
    const query = new URLSearchParams(this._filters.map((each) => ["filter", each]));
    if (this._byServer) query.set("servers", "true");
    try {
      await events(`ui/feed?${query}`, stop.signal, (event, data) => {
        if (stop.signal.aborted || event !== "queues") return;
        this._tries = 0;
        parts.push(data);
        if (data.more) return;
        this._take({ ...data, queues: parts.flatMap((each) => each.queues), gone: parts.flatMap((each) => each.gone) });
        parts = [];
        this._state("live");
        if (this.paused) { this._close(); this._state("paused"); }
      });
      if (!stop.signal.aborted) this._later(new ApiError(0, { detail: "the stream has ended" }));
    } catch (cause) {
      if (stop.signal.aborted) return;
      if (cause instanceof ApiError && cause.status >= 400 && cause.status < 500 && cause.status !== 429) {
        this._state("refused", cause);
      } else {
        this._later(cause);
      }
    }
  }

  _later(cause) {
    this._state("lost", cause);
    const wait = RETRY_MS[Math.min(this._tries, RETRY_MS.length - 1)];
    this._tries += 1;
    this._timer = setTimeout(() => this._open(false), wait);
  }

  _take({ all, queues, gone, coverage, left, servers }) {
    const names = new Set(gone);
    if (all) {
      const here = new Set(queues.map((each) => each.queue));
      for (const name of this.queues.keys()) if (!here.has(name)) names.add(name);
    }
    for (const name of names) this.queues.delete(name);
    const before = new Map();
    for (const row of queues) {
      const known = this.queues.get(row.queue);
      before.set(row.queue, known);
      this.queues.set(row.queue, { ...row, history: row.history ?? known?.history ?? [] });
    }
    this.coverage = coverage;
    this.left = left;
    this.servers = servers;
    this._changed(before, names);
  }
}
