package gatecrew

import "time"

var started = time.Now()

func now() time.Duration { return time.Since(started) }

// A gateway's clock may run slower than ours by so much: what it says to be late by less than that is not.
const drift = 1000 // a thousandth

// clock is what we know of a gateway's: it shows how long a message lay before we read it.
type clock struct {
	known  bool
	offset time.Duration // between our clock and the gateway's, with the fastest message's way
	at     time.Duration // when we last looked
}

// unread is what a message took longer than the fastest one; 0 from a gateway that does not say when it sent it.
func (c *clock) unread(sentMs uint64, at time.Duration) time.Duration {
	if sentMs == 0 {
		return 0
	}
	difference := at - time.Duration(sentMs)*time.Millisecond
	c.offset += (at - c.at) / drift
	if !c.known || difference < c.offset {
		c.known, c.offset = true, difference
	}
	c.at = at
	return difference - c.offset
}
