/** The conversations that the server keeps for this user. All of it may throw what `Grizz.request` throws. */

const AT_ONCE = 20; // items in one request, the API's bound
const PAGE = 50;
const LONG_MS = 60_000; // for what may hold images

export class Talks {
  #client;

  constructor(client) {
    this.#client = client;
  }

  /** `{entries: [{id, title, updated_at, items, running, metadata}], more}`, the last used first. */
  async page({ after, query } = {}) {
    const wanted = new URLSearchParams({ limit: 50, ...(after && { after }), ...(query && { query }) });
    const { data, has_more } = await this.#client.request("GET", `/v1/conversations?${wanted}`);
    return { entries: data, more: has_more };
  }

  /** One entry as in a page. */
  get(id) {
    return this.#client.request("GET", `/v1/conversations/${id}?include=running`);
  }

  /** A new conversation that begins with these items; its id. */
  async create(items, metadata) {
    const first = items.slice(0, AT_ONCE);
    const { id } = await this.#client.request("POST", "/v1/conversations", { items: first, metadata }, LONG_MS);
    try {
      for (let i = AT_ONCE; i < items.length; i += AT_ONCE) {
        const more = { items: items.slice(i, i + AT_ONCE) };
        await this.#client.request("POST", `/v1/conversations/${id}/items`, more, LONG_MS);
      }
    } catch (error) {
      this.remove(id).catch(() => {}); // the half is of no use, and goes in time if it stays
      throw error;
    }
    return id;
  }

  /** Every item, oldest first. */
  items(id) {
    return this.#all(`/v1/conversations/${id}/items`);
  }

  /** What was asked for with a response. */
  input(responseId) {
    return this.#all(`/v1/responses/${responseId}/input_items`);
  }

  describe(id, metadata) {
    return this.#client.request("POST", `/v1/conversations/${id}`, { metadata });
  }

  remove(id) {
    return this.#client.request("DELETE", `/v1/conversations/${id}`);
  }

  /** Remove items, the last one first: whatever happens, what is left is a conversation. */
  async cut(id, itemIds) {
    for (const item of [...itemIds].reverse()) {
      await this.#client.request("DELETE", `/v1/conversations/${id}/items/${item}`).catch((error) => {
        if (error.status !== 404) throw error;
      });
    }
  }

  async #all(path) {
    const items = [];
    for (let more = true; more; ) {
      const wanted = new URLSearchParams({ limit: PAGE, order: "asc", ...(items.length && { after: items.at(-1).id }) });
      const page = await this.#client.request("GET", `${path}?${wanted}`, undefined, LONG_MS);
      items.push(...page.data);
      more = page.has_more && page.data.length > 0;
    }
    return items;
  }
}
