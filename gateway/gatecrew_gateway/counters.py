"""What a gateway has counted since it started: plain integers, added to once a batch. Explained in docs/counters.md."""

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Counters:
    sessions_opened: int = 0
    sessions_closed: int = 0
    sessions_refused: int = 0  # over max_sessions, or the process's file descriptors
    addresses_refused: int = 0  # over max_sessions_per_address
    places_given: int = 0  # clients disconnected for a newcomer, since their address had most places
    accepts_delayed: int = 0  # times that max_accepts_per_s was used up
    wire_errors: int = 0
    slow_clients_cut: int = 0
    silent_clients_cut: int = 0
    flooding_clients_cut: int = 0
    requests: int = 0  # accepted
    notifies: int = 0  # accepted
    replies: int = 0  # answers that a worker gave, application errors included
    errors: int = 0  # error packets of the gateway's own
    notifies_dropped: int = 0
    overloaded: int = 0
    unavailable: int = 0
    deadlines_exceeded: int = 0
    cancelled: int = 0  # requests whose client had gone before their answer came
    outcome_unknown: int = 0
    late_replies: int = 0
    redelivered: int = 0
    returned_not_started: int = 0
    quarantined: int = 0
    quarantined_elsewhere: int = 0  # another gateway says so
    quarantine_refused: int = 0  # the same as one that is quarantined
    dead_letters: int = 0  # kept now: this one falls, too
    dead_letters_replayed: int = 0
    dead_letters_dropped: int = 0
    events_lost: int = 0  # open and close events that no worker took
    links_opened: int = 0
    links_lost: int = 0
    workers_frozen: int = 0
    workers_ejected: int = 0  # for a while, because they failed so much more than others
    loop_stalls: int = 0
    pushes: int = 0
    pushes_delivered: int = 0
    pushes_no_session: int = 0
    actions_refused: int = 0  # malformed, or for a session that is gone
    batches_sent: int = 0
    batches_received: int = 0
    memory_held_bytes: int = 0  # now, not since the start; see memory.py
    memory_limit_bytes: int = 0
    memory_refused: int = 0  # clients and packets
    memory_clients_cut: int = 0

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}
