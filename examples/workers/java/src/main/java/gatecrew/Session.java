package gatecrew;

import com.google.protobuf.ByteString;
import gatecrew.v1.Worker.Action;
import gatecrew.v1.Worker.Bind;
import gatecrew.v1.Worker.Join;
import gatecrew.v1.Worker.Kick;
import gatecrew.v1.Worker.Leave;
import gatecrew.v1.Worker.Push;
import gatecrew.v1.Worker.SessionContext;
import gatecrew.v1.Worker.SetAttributes;
import java.util.ArrayDeque;
import java.util.Queue;

/**
 * A client, as one link knows it. Its requests run one after the other. Everything that is done to
 * it goes out before the reply of the request that is being handled.
 */
public final class Session {
  /** An unsigned 64-bit number, as everywhere in the contract. */
  public final long id;

  /** Yours: gone when the session is. Only its handlers touch it, so it needs no lock. */
  public Object state;

  SessionContext context;

  // The lane, of the link.
  boolean busy;
  final Queue<Link.Task> waiting = new ArrayDeque<>(0);

  private final Link link;

  Session(Link link, SessionContext context) {
    this.id = context.getSession();
    this.link = link;
    this.context = context;
  }

  /** Sends a packet to the client. */
  public void push(int command, ByteString body) {
    if (body.size() > Handler.MAX_BODY) {
      throw Handler.tooLarge(body.size()).asRuntimeException();
    }
    var push = Push.newBuilder().setSession(id).setCommand(command).setBody(body);
    link.act(Action.newBuilder().setPush(push));
  }

  /** Makes it a member of a group. */
  public void join(String group) {
    link.act(Action.newBuilder().setJoin(Join.newBuilder().setSession(id).setGroup(group)));
  }

  /** Undoes {@link #join}. */
  public void leave(String group) {
    link.act(Action.newBuilder().setLeave(Leave.newBuilder().setSession(id).setGroup(group)));
  }

  /** Says which user it is. */
  public void bind(String user) {
    link.act(Action.newBuilder().setBind(Bind.newBuilder().setSession(id).setUser(user)));
  }

  /** Sets an attribute; an empty value removes it. */
  public void set(String name, String value) {
    var attributes = SetAttributes.newBuilder().setSession(id).putAttributes(name, value);
    link.act(Action.newBuilder().setSetAttributes(attributes));
  }

  /** Closes it, once its client has been told the reason. */
  public void kick(String reason) {
    link.act(Action.newBuilder().setKick(Kick.newBuilder().setSession(id).setReason(reason)));
  }
}
