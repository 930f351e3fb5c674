<?php
// Takes jobs from a queue, works on one after the other, and acks them. Needs ext-curl and ext-pcntl.
//
//   QUEUE=emails php consumer.php
//
// LEASE_SECONDS (60) is the length of the lease. If it is not extended in time, another consumer gets the job.
// SIGTERM ends it with exit code 0: within a second while it waits for a job, otherwise once its job is acked.

declare(strict_types=1);

require __DIR__ . '/gateway.php';

$lease = setting('LEASE_SECONDS', '60');
check(
    (bool) preg_match('/^[1-9][0-9]{0,8}$/D', $lease),
    "LEASE_SECONDS: '$lease' is not a whole number of seconds from 1 on",
);
define('LEASE_S', (int) $lease);

/**
 * Your code. Throws if the job failed. A job may come twice: tell by its id.
 *
 * @param callable $extend PHP does one thing at a time, so call this between two steps of long work.
 */
function work(array $job, callable $extend): void
{
    $mail = $job['data'] ?? null; // a string for text; 'data_base64' for bytes that are neither JSON nor text
    if (!is_array($mail) || !isset($mail['to'])) {
        throw new RuntimeException('the mail has no address');
    }
    $until = microtime(true) + ($mail['seconds'] ?? 0);
    while (microtime(true) < $until) { // in place of real work
        usleep(100_000);
        $extend();
    }
    echo json_encode($mail, JSON_THROW_ON_ERROR), "\n";
}

/** Works on the job, then acks it, or gives it back with the reason. */
function handle(array $job): void
{
    $lease = "/leases/{$job['lease']['id']}";
    fprintf(STDERR, "%s: attempt %d\n", $job['id'], $job['attempt']);
    $extended = time();
    $extend = function () use ($lease, &$extended): void {
        if (time() - $extended < LEASE_S / 3) {
            return;
        }
        $extended = time();
        try {
            once('POST', "$lease/extend", json_encode(['lease_seconds' => LEASE_S]));
        } catch (Failed $failed) {
            fprintf(STDERR, "not extended: %s\n", $failed->getMessage());
        }
    };
    try {
        work($job, $extend);
    } catch (Throwable $error) { // also a TypeError: the job that causes it must not end the consumer
        fprintf(STDERR, "%s failed: %s\n", $job['id'], $error->getMessage());
        // The next attempt comes later each time. After the last one the job goes to the dead letters.
        $answer = ['reason' => $error->getMessage(), 'delay' => min(2 ** $job['attempt'], 300)];
        settle("$lease/nack", json_encode($answer, JSON_THROW_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE));
        return;
    }
    settle("$lease/ack");
}

function settle(string $path, ?string $json = null): void
{
    try {
        call('POST', $path, $json, giveUpS: LEASE_S);
    } catch (Failed $failed) {
        // lease-expired, lease-lost, outcome-unknown: the job may come again. There is nothing to repair here.
        fprintf(STDERR, "not settled: %s\n", $failed->getMessage());
    }
}

$stopping = false;
pcntl_async_signals(true);
foreach ([SIGTERM, SIGINT] as $signal) {
    pcntl_signal($signal, function () use (&$stopping): void {
        $stopping = true;
    });
}
try {
    while (!$stopping) {
        $path = sprintf('%s/next?timeout=%d&lease_seconds=%d', QUEUE_PATH, WAIT_S, LEASE_S);
        $job = call('GET', $path, stop: function () use (&$stopping): bool {
            return $stopping;
        });
        if ($job !== null) {
            handle($job);
        }
    }
} catch (Stopped) {
    // SIGTERM while it waited; the gateway sees the connection close and gives the poll no job.
} catch (Failed $failed) {
    fprintf(STDERR, "stopped: %s\n", $failed->getMessage());
    exit(1);
}
