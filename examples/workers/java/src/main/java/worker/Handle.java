package worker;

import com.google.protobuf.ByteString;
import gatecrew.Serve;
import gatecrew.v1.LogicWorkerGrpc;
import gatecrew.v1.Worker.Reply;
import gatecrew.v1.Worker.Request;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.util.Locale;

/** The simplest worker: one call a packet. */
public final class Handle extends LogicWorkerGrpc.LogicWorkerImplBase {
  @Override
  public void handle(Request request, StreamObserver<Reply> client) {
    if (request.getCommand() != 101) {
      client.onError(
          Status.UNIMPLEMENTED.withDescription("no command " + request.getCommand()).asException());
      return;
    }
    var upper = request.getBody().toStringUtf8().toUpperCase(Locale.ROOT);
    client.onNext(
        Reply.newBuilder().setId(request.getId()).setBody(ByteString.copyFromUtf8(upper)).build());
    client.onCompleted();
  }

  public static void main(String[] arguments) throws InterruptedException {
    Serve.serve(new Handle(), () -> {});
  }
}
