package gatecrew

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"example.com/tour/pb"
)

const drainWithin = 10 * time.Second

var options = []grpc.ServerOption{
	grpc.MaxRecvMsgSize(4 << 20),
	// A gateway may ping as often as it needs to find a frozen worker, and a frozen gateway is found by our pings.
	grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
}

// Serve listens at HOST and PORT of the environment until SIGTERM or SIGINT, then drains. A second signal kills.
func Serve(service pb.LogicWorkerServer, drain func(context.Context)) {
	address := net.JoinHostPort(cmp.Or(os.Getenv("HOST"), "127.0.0.1"), cmp.Or(os.Getenv("PORT"), "7101"))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	server, healthy := grpc.NewServer(options...), health.NewServer()
	pb.RegisterLogicWorkerServer(server, service)
	healthpb.RegisterHealthServer(server, healthy)
	healthy.SetServingStatus(pb.LogicWorker_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)

	signalled, forget := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
	fmt.Println("listening on", address)
	<-signalled.Done()
	forget()

	healthy.Shutdown()
	patience, cancel := context.WithTimeout(context.Background(), drainWithin)
	defer cancel()
	context.AfterFunc(patience, server.Stop)
	drain(patience)
	server.GracefulStop()
}
