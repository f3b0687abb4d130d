// The simplest worker: one call a packet.
import { serve } from "./gatecrew/serve.js";
import { Reply } from "./pb/gatecrew/v1/worker.js";

await serve({
  handle: ({ request: { id, command, body } }, callback) => {
    if (command !== 101) {
      callback(null, Reply.create({ id, status: 12, message: `no command ${command}` }));
      return;
    }
    const upper = body.map((letter) => (0x61 <= letter && letter <= 0x7a ? letter - 0x20 : letter));
    callback(null, Reply.create({ id, body: upper }));
  },
});
