package gatecrew

import (
	"strings"
	"sync/atomic"

	"example.com/tour/pb"
)

// Session is a client, as one link knows it. Its requests run one after the other, but do not wait for a handler whose
// context has ended. Who it is stands in each request's Context.
type Session struct {
	ID    uint64
	State any // yours: for handlers whose context has not ended, so no lock is needed; gone when the session is

	link    *link
	context *pb.SessionContext // of the link's reader

	// The lane. Only the reader makes it busy.
	busy    atomic.Bool
	running *task // in the link's mutex, as is what waits for it
	waiting []*task
}

// next is the request whose turn has come, and nil if there is none. In the link's mutex.
func (s *Session) next() *task {
	s.running = nil
	if len(s.waiting) > 0 {
		s.running = s.waiting[0]
		s.waiting = s.waiting[1:]
	} else {
		s.waiting = nil
	}
	s.busy.Store(s.running != nil)
	return s.running
}

// Push sends a packet to the client.
func (s *Session) Push(command uint32, body []byte) error {
	if len(body) > MaxBody {
		return TooLarge(uint64(len(body)))
	}
	push := &pb.Push{Target: &pb.Push_Session{Session: s.ID}, Command: command, Body: body}
	return s.link.outbox.act(&pb.Action{Action: &pb.Action_Push{Push: push}})
}

// Join makes it a member of a group.
func (s *Session) Join(group string) error {
	join := &pb.Join{Session: s.ID, Group: clean(group)}
	return s.link.outbox.act(&pb.Action{Action: &pb.Action_Join{Join: join}})
}

// Leave undoes Join.
func (s *Session) Leave(group string) error {
	leave := &pb.Leave{Session: s.ID, Group: clean(group)}
	return s.link.outbox.act(&pb.Action{Action: &pb.Action_Leave{Leave: leave}})
}

// Bind says which user it is.
func (s *Session) Bind(user string) error {
	bind := &pb.Bind{Session: s.ID, User: clean(user)}
	return s.link.outbox.act(&pb.Action{Action: &pb.Action_Bind{Bind: bind}})
}

// Set sets an attribute; an empty value removes it.
func (s *Session) Set(name, value string) error {
	set := &pb.SetAttributes{Session: s.ID, Attributes: map[string]string{clean(name): clean(value)}}
	return s.link.outbox.act(&pb.Action{Action: &pb.Action_SetAttributes{SetAttributes: set}})
}

// Kick closes it, once its client has been told the reason.
func (s *Session) Kick(reason string) error {
	kick := &pb.Kick{Target: &pb.Kick_Session{Session: s.ID}, Reason: clean(reason)}
	return s.link.outbox.act(&pb.Action{Action: &pb.Action_Kick{Kick: kick}})
}

// clean makes text of what a client sent: one string that is no UTF-8 would end the stream of all sessions.
func clean(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
