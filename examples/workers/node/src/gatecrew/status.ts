import { status } from "@grpc/grpc-js";

export const MAX_BODY = (1 << 20) - 8; // bytes of a reply or a push: what fits in a packet

/** What a handler throws to tell the client something; of any other error the client hears "internal error". */
export class StatusError extends Error {
  constructor(
    readonly code: status,
    message: string,
  ) {
    super(message);
  }
}

export function tooLarge(bytes: number): StatusError {
  return new StatusError(status.INTERNAL, `a reply of ${bytes} bytes; ${MAX_BODY} at most`);
}
