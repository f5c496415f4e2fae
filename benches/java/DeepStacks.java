import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;

/** DeepStacks THREADS DEPTH: that many threads that poll as Kafka's do, each that many frames deep, with a monitor and a lock held. */
public class DeepStacks {
    static CountDownLatch down;

    static int descend(int depth, Object monitor) {
        if (depth > 0) return descend(depth - 1, monitor) + 1;
        ReentrantLock lock = new ReentrantLock();
        lock.lock();
        synchronized (monitor) {
            down.countDown();
            while (true) LockSupport.parkNanos(200_000_000L);
        }
    }

    public static void main(String[] arguments) throws Exception {
        int threads = Integer.parseInt(arguments[0]), depth = Integer.parseInt(arguments[1]);
        down = new CountDownLatch(threads);
        for (int i = 0; i < threads; i++) {
            // The exporter uses the reapers as the JVM's clock; without them it evaluates no thread.
            String name = i < 4 ? "ExpirationReaper-1-" + i : "data-plane-kafka-request-handler-" + i;
            Thread thread = new Thread(null, () -> descend(depth, new Object()), name, 1 << 20);
            thread.setDaemon(true);
            thread.start();
        }
        down.await();
        System.out.println("ready");
        Thread.sleep(Long.MAX_VALUE);
    }
}
