// The reference worker in Go. What each command does is said in examples/workers/README.md of Gatecrew.
package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"example.com/tour/gatecrew"
	"example.com/tour/pb"
)

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.50.0 generate

const (
	pushed = 109
	said   = 112
)

var (
	worker = gatecrew.NewWorker(cmp.Or(os.Getenv("SERVICE"), "tour"))
	begun  atomic.Int64 // handlers that this process has begun
	ok     = []byte("ok")
)

func main() {
	quick := map[uint32]gatecrew.Handler{
		101: echo, 102: refuse, 103: crash, 105: count, 106: about, 107: big, 108: who,
		109: push, 110: join, 111: leave, 112: say, 113: bind, 114: set, 115: kick,
	}
	for number, handler := range quick {
		worker.OnQuick(number, counted(handler))
	}
	worker.On(104, counted(wait))
	gatecrew.Serve(worker, worker.Drain)
}

func counted(handler gatecrew.Handler) gatecrew.Handler {
	return func(ctx context.Context, session *gatecrew.Session, request *pb.Request) ([]byte, error) {
		begun.Add(1)
		return handler(ctx, session, request)
	}
}

func echo(_ context.Context, _ *gatecrew.Session, request *pb.Request) ([]byte, error) {
	return request.Body, nil
}

func refuse(_ context.Context, _ *gatecrew.Session, request *pb.Request) ([]byte, error) {
	return nil, status.Error(codes.FailedPrecondition, string(request.Body))
}

func crash(context.Context, *gatecrew.Session, *pb.Request) ([]byte, error) {
	panic("as asked")
}

func wait(ctx context.Context, _ *gatecrew.Session, request *pb.Request) ([]byte, error) {
	milliseconds, err := number(request)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Duration(milliseconds) * time.Millisecond):
		return request.Body, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func count(_ context.Context, session *gatecrew.Session, _ *pb.Request) ([]byte, error) {
	counted, _ := session.State.(int)
	session.State = counted + 1
	return strconv.AppendInt(nil, int64(counted+1), 10), nil
}

func about(context.Context, *gatecrew.Session, *pb.Request) ([]byte, error) {
	return fmt.Appendf(nil, "go %s %d", worker.Incarnation, begun.Load()), nil
}

func big(_ context.Context, _ *gatecrew.Session, request *pb.Request) ([]byte, error) {
	size, err := number(request)
	if err != nil {
		return nil, err
	}
	if size > gatecrew.MaxBody { // said before so much memory is asked for
		return nil, gatecrew.TooLarge(size)
	}
	return bytes.Repeat([]byte("x"), int(size)), nil
}

func who(_ context.Context, _ *gatecrew.Session, request *pb.Request) ([]byte, error) {
	client := request.Context
	answer := fmt.Appendf(nil, "session=%d\nuser=%s\npeer=%s\nlistener=%s", client.Session, client.User, client.Peer, client.Listener)
	for _, name := range slices.Sorted(maps.Keys(client.Attributes)) {
		answer = fmt.Appendf(answer, "\n%s=%s", name, client.Attributes[name])
	}
	return answer, nil
}

func push(_ context.Context, session *gatecrew.Session, request *pb.Request) ([]byte, error) {
	return ok, session.Push(pushed, request.Body)
}

func join(_ context.Context, session *gatecrew.Session, request *pb.Request) ([]byte, error) {
	return ok, session.Join(string(request.Body))
}

func leave(_ context.Context, session *gatecrew.Session, request *pb.Request) ([]byte, error) {
	return ok, session.Leave(string(request.Body))
}

func say(_ context.Context, session *gatecrew.Session, request *pb.Request) ([]byte, error) {
	group, text, _ := bytes.Cut(request.Body, []byte(" "))
	return ok, worker.PushGroup(string(group), said, text, session.ID)
}

func bind(_ context.Context, session *gatecrew.Session, request *pb.Request) ([]byte, error) {
	return ok, session.Bind(string(request.Body))
}

func set(_ context.Context, session *gatecrew.Session, request *pb.Request) ([]byte, error) {
	name, value, _ := strings.Cut(string(request.Body), "=")
	return ok, session.Set(name, value)
}

func kick(_ context.Context, session *gatecrew.Session, request *pb.Request) ([]byte, error) {
	return nil, session.Kick(string(request.Body))
}

// number reads 40 bits: as milliseconds 34 years, which is a duration still.
func number(request *pb.Request) (uint64, error) {
	value, err := strconv.ParseUint(string(request.Body), 10, 40)
	if err != nil {
		return 0, status.Error(codes.InvalidArgument, "give a decimal number")
	}
	return value, nil
}
