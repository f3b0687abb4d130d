// Package gatecrew is a worker's side of the contract: links to gateways, sessions and their order, batches, drain.
// It can be taken over as it is; what a worker does is in its handlers.
package gatecrew

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/tour/pb"
)

const (
	// MaxBody is what fits in a packet: bytes of a reply or a push.
	MaxBody = 1<<20 - 8

	maxInFlight = 1024 // requests of one link
)

// Handler answers a request. Its error reaches the client if it is one of gRPC's (status.Error); any other, and a
// panic, is logged and the client is told "internal error". The context ends with the link, and when nobody waits for the
// answer any more: the deadline has passed, or the client has gone. The session's next request does not wait then.
type Handler func(ctx context.Context, session *Session, request *pb.Request) ([]byte, error)

type command struct {
	handle Handler
	quick  bool
}

// Worker is a service, to be passed to Serve once its handlers are set.
type Worker struct {
	pb.UnimplementedLogicWorkerServer
	Incarnation string // random, one process life

	service  string
	commands map[uint32]command
	loggedAt atomic.Int64 // Unix nanoseconds

	mu       sync.Mutex
	links    map[*link]struct{}
	draining atomic.Bool
}

// NewWorker makes a worker without handlers, of the service as it is registered.
func NewWorker(service string) *Worker {
	return &Worker{
		Incarnation: rand.Text(),
		service:     service,
		commands:    map[uint32]command{},
		links:       map[*link]struct{}{},
	}
}

// On serves a command with a handler that may take its time: it runs in a goroutine of its session's.
func (w *Worker) On(number uint32, handle Handler) { w.commands[number] = command{handle: handle} }

// OnQuick serves a command with a handler that never waits for anything. It runs in the goroutine that reads the
// gateway's requests, which is the fastest way; everything of that gateway stands still meanwhile.
func (w *Worker) OnQuick(number uint32, handle Handler) {
	w.commands[number] = command{handle: handle, quick: true}
}

// PushGroup sends a packet to the members of a group, whichever gateway they are at, but not to `except` (0: to all).
func (w *Worker) PushGroup(group string, command uint32, body []byte, except uint64) error {
	if len(body) > MaxBody {
		return TooLarge(uint64(len(body)))
	}
	push := &pb.Push{Target: &pb.Push_Group{Group: clean(group)}, Command: command, Body: body, ExceptSession: except}
	for _, link := range w.live() {
		// An action of its own for each link: where it stands among the replies differs.
		err := link.outbox.act(&pb.Action{Action: &pb.Action_Push{Push: push}})
		if status.Code(err) == codes.InvalidArgument { // one gateway that is gone is no failure
			return err
		}
	}
	return nil
}

// Drain gives back what still comes, on every link. A gateway closes the link when nothing is open any more; Drain
// returns when all are closed, or with the context.
func (w *Worker) Drain(ctx context.Context) {
	w.draining.Store(true)
	for _, link := range w.live() {
		link.outbox.sendDraining()
	}
	for len(w.live()) > 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// Link serves one gateway; gRPC calls it.
func (w *Worker) Link(stream pb.LogicWorker_LinkServer) error {
	link := newLink(w, stream)
	w.mu.Lock()
	w.links[link] = struct{}{}
	w.mu.Unlock()
	if w.draining.Load() { // a gateway that comes late
		link.outbox.sendDraining()
	}
	defer func() {
		w.mu.Lock()
		delete(w.links, link)
		w.mu.Unlock()
	}()
	return link.serve()
}

func (w *Worker) live() []*link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.links))
}

func (w *Worker) hello() *pb.WorkerHello {
	return &pb.WorkerHello{
		Service:     w.service,
		Incarnation: w.Incarnation,
		Commands:    slices.Sorted(maps.Keys(w.commands)),
		NoCommands:  len(w.commands) == 0, // else an empty list means all
		MaxInFlight: maxInFlight,          // and no Concurrency: a goroutine for each
	}
}

// mayLog is true once a second: a client must not be able to fill the log.
func (w *Worker) mayLog() bool {
	now, last := time.Now().UnixNano(), w.loggedAt.Load()
	return now-last > int64(time.Second) && w.loggedAt.CompareAndSwap(last, now)
}
