// A Java program's view of the queues: java Client.java (put|get|delete) PORT QUEUE COUNT
// `put` stores jobs 0 to COUNT-1, `get` prints COUNT jobs, one a line.
import java.net.InetSocketAddress;
import java.util.logging.Level;
import java.util.logging.Logger;
import net.spy.memcached.MemcachedClient;

public class Client {
    public static void main(String[] arguments) throws Exception {
        System.setProperty("net.spy.log.LoggerImpl", "net.spy.memcached.compat.log.SunLogger");
        Logger.getLogger("net.spy.memcached").setLevel(Level.WARNING);
        String queue = arguments[2];
        int count = Integer.parseInt(arguments[3]);
        MemcachedClient client = new MemcachedClient(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[1])));
        for (int n = 0; n < count; n++) {
            switch (arguments[0]) {
                case "put" -> check(client.set(queue, 0, "job " + n).get());
                case "get" -> System.out.println(client.get(queue));
                case "delete" -> check(client.delete(queue).get());
            }
        }
        client.shutdown();
    }

    static void check(boolean done) {
        if (!done) throw new IllegalStateException("refused");
    }
}
