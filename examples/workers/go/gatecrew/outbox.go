package gatecrew

import (
	"context"
	"runtime"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"example.com/tour/pb"
)

const (
	messageBytes = 1 << 20  // a message is full here; the item that fills it makes it some 2 MiB, and 4 is the limit
	itemBytes    = 256      // what a reply or an action counts beside its content: at most 4096 in a message
	fullBytes    = 8 << 20  // more is not read from a gateway that does not read
	hardBytes    = 64 << 20 // and so much is not pushed to it
	maxAction    = MaxBody + 4096
)

// outbox is what waits to be written to one gateway. Replies and actions gather in one message, in order, while the
// writer is busy with an earlier one.
type outbox struct {
	mu        sync.Mutex
	waiting   []parcel
	bytes     int // of those, and of the one being written
	heartbeat *pb.Heartbeat
	closed    bool

	wake    chan struct{} // for the writer: there is something
	written chan struct{} // for the reader: something has left
}

type parcel struct {
	message *pb.WorkerMessage
	size    int
}

func newOutbox(hello *pb.WorkerHello) *outbox {
	o := &outbox{wake: make(chan struct{}, 1), written: make(chan struct{}, 1)}
	o.grow(0).Hello = hello
	o.flush()
	return o
}

// reply does not wake the writer: replies leave together when the batch has been handled.
func (o *outbox) reply(reply *pb.Reply) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	message := o.grow(len(reply.Body) + len(reply.Message))
	message.Replies = append(message.Replies, reply)
}

// act fails where the action is too large, where the link has ended, and where that gateway does not read.
func (o *outbox) act(action *pb.Action) error {
	size := proto.Size(action)
	if size > maxAction {
		return status.Errorf(codes.InvalidArgument, "an action of %d bytes; %d at most", size, maxAction)
	}
	defer o.flush()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.bytes > hardBytes {
		return status.Error(codes.Unavailable, "the session's gateway is gone, or does not read")
	}
	message := o.grow(size)
	action.AfterReplies = uint32(len(message.Replies))
	message.Actions = append(message.Actions, action)
	return nil
}

// beat answers a heartbeat, ahead of what waits.
func (o *outbox) beat(heartbeat *pb.Heartbeat) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heartbeat = heartbeat
	o.grow(0)
}

func (o *outbox) sendDraining() {
	defer o.flush()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.grow(0).Draining = true
}

// grow makes room for an item and returns the message that it belongs in.
func (o *outbox) grow(size int) *pb.WorkerMessage {
	last := len(o.waiting) - 1
	if last < 0 || o.waiting[last].size >= messageBytes {
		o.waiting = append(o.waiting, parcel{message: &pb.WorkerMessage{}})
		last++
	}
	o.waiting[last].size += itemBytes + size
	o.bytes += itemBytes + size
	return o.waiting[last].message
}

// flush wakes the writer.
func (o *outbox) flush() { notify(o.wake) }

// writeAll sends what gathers until the context ends or a send fails: the only writer of the stream.
func (o *outbox) writeAll(ctx context.Context, send func(*pb.WorkerMessage) error) error {
	for {
		select {
		case <-o.wake:
		case <-ctx.Done():
			return nil
		}
		runtime.Gosched() // handlers that are about to end get into the same message
		for next := o.take(); next.message != nil; next = o.take() {
			if err := send(next.message); err != nil {
				return err
			}
			o.mu.Lock()
			o.bytes -= next.size
			o.mu.Unlock()
			notify(o.written)
		}
	}
}

func (o *outbox) take() parcel {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		return parcel{}
	}
	next := o.waiting[0]
	o.waiting[0] = parcel{}
	o.waiting = o.waiting[1:]
	next.message.Heartbeat, o.heartbeat = o.heartbeat, nil
	return next
}

// shrink waits until no more than so many bytes wait, or the context ends. For the reader only.
func (o *outbox) shrink(ctx context.Context, bytes int) {
	for o.size() > bytes {
		select {
		case <-o.written:
		case <-ctx.Done():
			return
		}
	}
}

func (o *outbox) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes
}

// close forgets what waits: the link has ended.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.waiting = nil
}

func notify(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default: // nobody has taken the last one yet
	}
}
