// The simplest worker: one call a packet.
package main

import (
	"context"
	"fmt"

	"example.com/tour/gatecrew"
	"example.com/tour/pb"
)

type upper struct {
	pb.UnimplementedLogicWorkerServer
}

func (upper) Handle(_ context.Context, request *pb.Request) (*pb.Reply, error) {
	if request.Command != 101 {
		return &pb.Reply{Id: request.Id, Status: 12, Message: fmt.Sprintf("no command %d", request.Command)}, nil
	}
	for at, letter := range request.Body {
		if 'a' <= letter && letter <= 'z' {
			request.Body[at] -= 'a' - 'A'
		}
	}
	return &pb.Reply{Id: request.Id, Body: request.Body}, nil
}

func main() {
	gatecrew.Serve(upper{}, func(context.Context) {}) // gRPC itself finishes open calls
}
