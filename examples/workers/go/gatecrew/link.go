package gatecrew

import (
	"context"
	"io"
	"log"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/tour/pb"
)

const (
	lease      = 2 * time.Second        // a gateway speaks every second; after such a silence we stood still
	doubt      = 200 * time.Millisecond // for a cancellation to overtake what came before it
	slice      = time.Millisecond       // a batch that takes longer does not hold back its first replies
	maxMessage = 1024                   // bytes of an error that the client is shown
)

// link is the stream of one gateway: one goroutine reads and runs the quick handlers, one writes, and each session
// with a handler that takes its time has one.
type link struct {
	worker   *Worker
	stream   pb.LogicWorker_LinkServer
	outbox   *outbox
	ctx      context.Context
	end      context.CancelCauseFunc
	sessions map[uint64]*Session // of the reader
	lanes    sync.WaitGroup

	heard    atomic.Int64 // when the gateway last spoke
	inFlight atomic.Int32 // how many are open
	mu       sync.Mutex
	open     map[*task]struct{} // requests in lanes, until they are answered
}

// task is a request on its way to its handler.
type task struct {
	session *Session
	request *pb.Request
	command command
	arrived time.Duration
}

// late is whether nobody waits for the answer any more.
func (t task) late(at time.Duration) bool {
	remaining := time.Duration(t.request.RemainingMs) * time.Millisecond
	return remaining > 0 && at-t.arrived > remaining
}

func newLink(worker *Worker, stream pb.LogicWorker_LinkServer) *link {
	ctx, end := context.WithCancelCause(stream.Context())
	return &link{
		worker:   worker,
		stream:   stream,
		outbox:   newOutbox(worker.hello()),
		ctx:      ctx,
		end:      end,
		sessions: map[uint64]*Session{},
		open:     map[*task]struct{}{},
	}
}

// serve runs the stream to its end, whoever ends it. gRPC lets go of a read and a write that are still under way then.
func (l *link) serve() error {
	go func() { l.end(l.outbox.writeAll(l.ctx, l.stream.Send)) }()
	go func() { l.end(l.read()) }()
	<-l.ctx.Done()
	l.outbox.close()
	if cause := context.Cause(l.ctx); cause != context.Canceled {
		return cause
	}
	return nil
}

func (l *link) read() error {
	for greeted := false; ; greeted = true {
		message, err := l.stream.Recv()
		if err == io.EOF { // it asks nothing more, and still wants its answers
			l.lanes.Wait()
			l.outbox.shrink(l.ctx, 0)
			return nil
		}
		if err != nil {
			return err
		}
		if !greeted && message.Hello == nil {
			return status.Error(codes.InvalidArgument, "the first message has no hello")
		}
		if greeted && l.stoodStill(now()) {
			time.Sleep(doubt)
		}
		l.heard.Store(int64(now()))
		l.take(message)
		l.outbox.flush()
		l.outbox.shrink(l.ctx, fullBytes)
	}
}

func (l *link) stoodStill(at time.Duration) bool { return at-time.Duration(l.heard.Load()) > lease }

func (l *link) take(message *pb.GatewayMessage) {
	arrived := now()
	if message.Heartbeat != nil {
		l.outbox.beat(l.heartbeat(message.Heartbeat.Number))
	}
	for _, context := range message.Sessions {
		l.session(context.Session).context = context
	}
	for _, request := range message.Requests {
		l.admit(request, arrived)
	}
	for _, id := range message.ForgottenSessions {
		delete(l.sessions, id)
	}
}

func (l *link) session(id uint64) *Session {
	session := l.sessions[id]
	if session == nil {
		session = &Session{ID: id, link: l, context: &pb.SessionContext{Session: id}}
		l.sessions[id] = session
	}
	return session
}

// admit runs a request's handler at once, or puts it in its session's lane, or refuses it.
func (l *link) admit(request *pb.Request, arrived time.Duration) {
	if request.Kind > pb.Kind_KIND_NOTIFY { // an event that we did not ask for, or a kind of a later version
		l.outbox.reply(&pb.Reply{Id: request.Id})
		return
	}
	command, served := l.worker.commands[request.Command]
	if !served {
		l.fail(request, status.Newf(codes.Unimplemented, "no handler for command %d", request.Command))
		return
	}
	session := l.session(request.Session)
	request.Context = session.context
	t := task{session, request, command, arrived}
	switch {
	case l.worker.draining.Load():
		l.giveBack(request, "the worker is draining")
	case l.inFlight.Load() >= maxInFlight:
		l.giveBack(request, "the worker has too much in flight")
	case command.quick && !session.busy.Load():
		l.run(t)
	default:
		l.queue(t)
	}
}

func (l *link) queue(t task) {
	l.inFlight.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[&t] = struct{}{}
	if t.session.busy.Load() {
		t.session.waiting = append(t.session.waiting, &t)
	} else {
		t.session.busy.Store(true)
		l.lanes.Go(func() { l.runLane(&t) })
	}
}

// runLane runs a session's requests, one after the other, until none is left.
func (l *link) runLane(t *task) {
	for t != nil {
		l.run(*t)
		l.outbox.flush()
		t = l.next(t)
	}
}

func (l *link) next(done *task) *task {
	l.inFlight.Add(-1)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, done)
	session := done.session
	if len(session.waiting) == 0 {
		session.waiting = nil
		session.busy.Store(false)
		return nil
	}
	next := session.waiting[0]
	session.waiting = session.waiting[1:]
	return next
}

// run answers a request, by its handler if it is still worth it.
func (l *link) run(t task) {
	at := now()
	if at-t.arrived > slice {
		l.outbox.flush()
	}
	switch {
	case l.ctx.Err() != nil: // its requests are other workers' by now
	case l.stoodStill(at):
		l.giveBack(t.request, "the worker stood still")
	case t.late(at):
		l.fail(t.request, status.New(codes.DeadlineExceeded, "the deadline passed before the handler started"))
	default:
		l.answer(t)
	}
}

func (l *link) answer(t task) {
	body, err := l.call(t)
	if t.request.Kind == pb.Kind_KIND_NOTIFY {
		body, err = nil, nil
	}
	if err == nil && len(body) > MaxBody {
		err = TooLarge(uint64(len(body)))
	}
	if err == nil {
		l.outbox.reply(&pb.Reply{Id: t.request.Id, Body: body})
		return
	}
	shown, isStatus := status.FromError(err)
	if !isStatus {
		if l.worker.mayLog() {
			log.Printf("command %d: %v", t.request.Command, err)
		}
		shown = internal
	}
	l.fail(t.request, shown)
}

// call keeps a handler's panic from ending the stream, and the process.
func (l *link) call(t task) (body []byte, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			if l.worker.mayLog() {
				log.Printf("command %d: panic: %v\n%s", t.request.Command, reason, debug.Stack())
			}
			err = internal.Err()
		}
	}()
	return t.command.handle(l.ctx, t.session, t.request)
}

func (l *link) fail(request *pb.Request, shown *status.Status) {
	message := shown.Message()
	message = clean(message[:min(len(message), maxMessage)])
	l.outbox.reply(&pb.Reply{Id: request.Id, Status: uint32(shown.Code()), Message: message})
}

// giveBack lets the gateway take the request to another worker.
func (l *link) giveBack(request *pb.Request, reason string) {
	l.outbox.reply(&pb.Reply{Id: request.Id, Status: uint32(codes.Unavailable), Message: reason, NotStarted: true})
}

func (l *link) heartbeat(number uint64) *pb.Heartbeat {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := now()
	for t := range l.open {
		oldest = min(oldest, t.arrived)
	}
	age := now() - oldest
	return &pb.Heartbeat{Number: number, InFlight: uint32(len(l.open)), OldestMs: uint32(age.Milliseconds())}
}

var internal = status.New(codes.Internal, "internal error")

// TooLarge is what the client hears of a reply that fits in no packet.
func TooLarge(bytes uint64) error {
	return status.Errorf(codes.Internal, "a reply of %d bytes; %d at most", bytes, MaxBody)
}

var started = time.Now()

func now() time.Duration { return time.Since(started) }
