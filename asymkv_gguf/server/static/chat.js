// The conversation: asks the server, keeps the answers, and can be stopped at any time.

import { ServerError, chat } from "./api.js";
import { loadTurns, messages, sampling, saveTurns } from "./store.js";

const SAVE_PERIOD = 500; // ms between two saves while an answer comes

export class Conversation {
  turns = loadTurns();
  #controller = null;
  #answering = Promise.resolve();
  #savedAt = 0;
  #listener;

  /** `listener`: {changed(), began(), updated(turn), measured(asymkv), ended(turn), unauthorized(message), full()}. */
  constructor(listener) {
    this.#listener = listener;
  }

  get busy() {
    return this.#controller !== null;
  }

  /** A user's turn, and the answer to it. */
  async send(text) {
    await this.stop();
    this.turns.push({ role: "user", text });
    return this.#answer();
  }

  /** Another answer in the place of turn `index`; what follows it is gone. */
  async regenerate(index) {
    await this.stop();
    this.turns.length = index;
    return this.#answer();
  }

  async edit(index, text) {
    await this.stop();
    this.turns.length = index;
    return this.send(text);
  }

  /** A user's turn goes together with its answer. */
  async remove(index) {
    await this.stop();
    const n = this.turns[index + 1]?.role === "assistant" ? 2 : 1;
    this.turns.splice(index, n);
    this.#changed();
  }

  async replace(turns) {
    await this.stop();
    this.turns = turns;
    this.#changed();
  }

  /** Closes the request, which is how the server learns to stop; done when the answer has its last state. */
  async stop() {
    this.#controller?.abort();
    await this.#answering;
  }

  /** As the browser keeps it. */
  restore() {
    this.turns = loadTurns();
    this.#listener.changed();
  }

  /** To be called before the page goes. */
  save() {
    if (!saveTurns(this.turns)) this.#listener.full();
  }

  #changed() {
    this.save();
    this.#listener.changed();
  }

  #answer() {
    const turn = { role: "assistant", text: "", state: "streaming" };
    const asked = messages(this.turns);
    this.turns.push(turn);
    this.#changed();
    this.#controller = new AbortController();
    this.#answering = this.#stream(turn, asked, this.#controller.signal);
    return this.#answering;
  }

  async #stream(turn, asked, signal) {
    this.#listener.began();
    let firstAt = 0;
    let refused = null;
    try {
      const request = {
        messages: asked,
        ...sampling(),
        stream: true,
        stream_options: { include_usage: true },
        return_progress: true,
      };
      for await (const chunk of chat(request, signal)) {
        if (chunk.prompt_progress) turn.progress = chunk.prompt_progress;
        const choice = chunk.choices?.[0];
        if (choice?.delta?.content) {
          firstAt ||= performance.now();
          turn.text += choice.delta.content;
        }
        if (choice?.finish_reason) turn.finish = choice.finish_reason;
        if (chunk.usage) turn.usage = chunk.usage;
        if (chunk.asymkv) this.#listener.measured(chunk.asymkv);
        this.#listener.updated(turn);
        if (performance.now() - this.#savedAt > SAVE_PERIOD) {
          this.#savedAt = performance.now();
          this.save();
        }
      }
      turn.state = "done";
    } catch (error) {
      if (signal.aborted) turn.state = "stopped";
      else {
        turn.state = "failed";
        turn.error = error instanceof ServerError ? error.message : `The answer could not be read: ${error.message}`;
        if (error.status === 401) refused = error.message;
      }
    }
    if (firstAt) turn.seconds = (performance.now() - firstAt) / 1000;
    delete turn.progress;
    this.#controller = null;
    this.save();
    this.#listener.ended(turn);
    if (refused !== null) this.#listener.unauthorized(refused);
  }
}
