package gatecrew

import (
	"context"
	"io"
	"log"
	"math"
	"runtime/debug"
	"slices"
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
	clock    clock               // of the reader
	lanes    sync.WaitGroup

	heard    atomic.Int64 // when the gateway last spoke
	inFlight atomic.Int32 // how many are open
	mu       sync.Mutex
	open     map[uint64]*task // requests in lanes by their ids, until they are answered
}

// task is a request on its way to its handler.
type task struct {
	session *Session
	request *pb.Request
	command command
	ctx     context.Context // ends when nobody waits for the answer any more
	cancel  context.CancelFunc
	arrived time.Duration
	due     time.Duration // the deadline, by our clock
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
		open:     map[uint64]*task{},
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
	sent := arrived - l.clock.unread(message.SentMs, arrived)
	if message.Heartbeat != nil {
		l.outbox.beat(l.heartbeat(message.Heartbeat.Number))
	}
	for _, context := range message.Sessions {
		l.session(context.Session).context = context
	}
	for _, request := range message.Requests {
		l.admit(request, arrived, sent)
	}
	for _, id := range message.ForgottenSessions {
		delete(l.sessions, id)
	}
	for _, id := range message.CancelledRequests {
		l.cancel(id)
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
func (l *link) admit(request *pb.Request, arrived, sent time.Duration) {
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
	t := task{session: session, request: request, command: command, ctx: l.ctx, arrived: arrived, due: math.MaxInt64}
	if request.RemainingMs > 0 {
		t.due = sent + time.Duration(request.RemainingMs)*time.Millisecond
	}
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
	t.ctx, t.cancel = context.WithCancel(l.ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[t.request.Id] = &t
	t.session.waiting = append(t.session.waiting, &t)
	if !t.session.busy.Load() {
		l.startLane(t.session)
	}
}

// startLane begins the next of a session's requests in a goroutine of its own, if there is one. In the mutex.
func (l *link) startLane(session *Session) {
	if t := session.next(); t != nil {
		l.lanes.Go(func() { l.runLane(t) })
	}
}

// runLane runs a session's requests, one after the other, until none is left, or the running one is cancelled.
func (l *link) runLane(t *task) {
	for t != nil {
		l.run(*t)
		l.outbox.flush()
		t = l.next(t)
	}
}

func (l *link) next(done *task) *task {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed(done)
	if done.session.running != done { // cancelled: another goroutine has the lane
		return nil
	}
	return done.session.next()
}

// closed notes that a request of a lane is answered. In the mutex.
func (l *link) closed(t *task) {
	t.cancel()
	delete(l.open, t.request.Id)
	l.inFlight.Add(-1)
}

// cancel ends what nobody waits for any more. One that waits is answered now; one that runs has its context ended, is
// answered when its handler returns, which holds its place until then, and keeps its session waiting no longer.
func (l *link) cancel(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.open[id]
	if t == nil { // answered before it came to that
		return
	}
	t.cancel()
	if at := slices.Index(t.session.waiting, t); at >= 0 {
		t.session.waiting = slices.Delete(t.session.waiting, at, at+1)
		l.closed(t)
		l.fail(t.request, cancelled)
	} else if t.session.running == t {
		l.startLane(t.session)
	}
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
	case t.ctx.Err() != nil:
		l.fail(t.request, cancelled)
	case at > t.due:
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
	if t.ctx.Err() != nil {
		shown = cancelled
	} else if !isStatus {
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
	return t.command.handle(t.ctx, t.session, t.request)
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
	for _, t := range l.open {
		oldest = min(oldest, t.arrived)
	}
	age := now() - oldest
	return &pb.Heartbeat{Number: number, InFlight: uint32(len(l.open)), OldestMs: uint32(age.Milliseconds())}
}

var (
	internal  = status.New(codes.Internal, "internal error")
	cancelled = status.New(codes.Canceled, "nobody waits for the answer any more")
)

// TooLarge is what the client hears of a reply that fits in no packet.
func TooLarge(bytes uint64) error {
	return status.Errorf(codes.Internal, "a reply of %d bytes; %d at most", bytes, MaxBody)
}
