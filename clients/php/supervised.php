<?php
// A consumer for supervisord, by HTTP or by memcached: takes jobs one after the other, and ends after --max-jobs, so that
// memory never grows for long. See deploy/supervisord/php-consumer.conf.
//
//   QUEUE=emails php supervised.php --max-jobs=1000 --debug
//   QUEUE=emails KESTREL=127.0.0.1:22133 php supervised.php --by=memcached --max-jobs=1000
//
// Needs ext-pcntl and ext-curl, or ext-memcached. By memcached it reads from a Kestrel server or from the embedded broker
// (--broker-listen), without the gateway's leases: the job comes again when this program ends without an answer.
// SIGTERM ends it once its job is done, with exit code 0.

declare(strict_types=1);

require __DIR__ . '/gateway.php';

/** Your code. Throws if the job failed. */
function work(mixed $data): void
{
    if (!is_array($data) || !isset($data['to'])) {
        throw new RuntimeException('the mail has no address');
    }
    echo json_encode($data, JSON_THROW_ON_ERROR), "\n";
}

$options = getopt('', ['by:', 'max-jobs:', 'debug'], $rest);
$maxJobs = $options['max-jobs'] ?? '0'; // 0: no limit
$by = $options['by'] ?? 'http';
check($rest === $argc && $argc > 0, 'usage: php supervised.php [--by=http|memcached] [--max-jobs=N] [--debug]');
check(in_array($by, ['http', 'memcached'], true), "--by: '$by' is neither http nor memcached");
check(is_string($maxJobs) && ctype_digit($maxJobs), '--max-jobs: is not a whole number from 0 on');
define('DEBUG', isset($options['debug']));

function debug(string $text): void
{
    if (DEBUG) {
        fprintf(STDERR, "%s [%d] %s, %.1f MiB\n", date('c'), getmypid(), $text, memory_get_usage() / 2 ** 20);
    }
}

$stopping = false;
pcntl_async_signals(true);
foreach ([SIGTERM, SIGINT] as $signal) {
    pcntl_signal($signal, function () use (&$stopping): void {
        $stopping = true;
    });
}
$stop = function () use (&$stopping): bool {
    return $stopping;
};

/** Takes one job by HTTP and works on it. Returns whether there was one. */
function byHttp(callable $stop): bool
{
    $job = call('GET', QUEUE_PATH . sprintf('/next?timeout=%d&lease_seconds=60', WAIT_S), stop: $stop);
    if ($job === null) {
        return false;
    }
    debug("{$job['id']}: attempt {$job['attempt']}");
    $lease = "/leases/{$job['lease']['id']}";
    try {
        work($job['data'] ?? null);
        call('POST', "$lease/ack", giveUpS: 60);
        debug("{$job['id']}: acked");
    } catch (Failed $failed) {
        fprintf(STDERR, "not acked, so the job may come again: %s\n", $failed->getMessage());
    } catch (Throwable $error) {
        fprintf(STDERR, "%s failed: %s\n", $job['id'], $error->getMessage());
        $answer = ['reason' => $error->getMessage(), 'delay' => min(2 ** $job['attempt'], 300)];
        call('POST', "$lease/nack", json_encode($answer, JSON_THROW_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE), giveUpS: 60);
    }
    return true;
}

/** The same by memcached. A job that fails goes to the queue QUEUE-failed, since Kestrel counts no attempts. */
function byMemcached(Memcached $kestrel, string $queue): bool
{
    $item = $kestrel->get("$queue/t=1000/open");
    if ($item === false) {
        if ($kestrel->getResultCode() !== Memcached::RES_NOTFOUND) {
            fprintf(STDERR, "%s\n", $kestrel->getResultMessage());
            $kestrel->quit(); // a new connection; what this one had open goes back
            sleep(1);
        }
        return false;
    }
    $event = json_decode($item, true);
    $isJob = isset($event['specversion']); // enqueued through a gateway
    debug($isJob ? "job {$event['id']}" : sprintf('item of %d bytes', strlen($item)));
    try {
        work($isJob ? ($event['data'] ?? null) : $event);
    } catch (Throwable $error) {
        fprintf(STDERR, "failed: %s\n", $error->getMessage());
        if (!$kestrel->set("$queue-failed", $item)) {
            $kestrel->get("$queue/abort"); // it is not stored elsewhere, so it stays on its queue
            return true;
        }
    }
    $kestrel->get("$queue/close");
    debug('closed');
    return true;
}

if ($by === 'memcached') {
    [$host, $port] = explode(':', setting('KESTREL', '127.0.0.1:22133')) + [1 => '22133'];
    $kestrel = new Memcached();
    $kestrel->setOption(Memcached::OPT_COMPRESSION, false); // Kestrel keeps no flags, so it could not be undone
    $kestrel->setOption(Memcached::OPT_POLL_TIMEOUT, 10_000); // longer than a wait
    $kestrel->addServer($host, (int) $port);
    $take = fn (): bool => byMemcached($kestrel, setting('QUEUE', 'emails'));
} else {
    $take = fn (): bool => byHttp($stop);
}
try {
    for ($jobs = 0; !$stopping && ($maxJobs === '0' || $jobs < (int) $maxJobs);) {
        $jobs += (int) $take();
    }
    debug("ends after $jobs jobs");
} catch (Stopped) {
    debug('ends while it waits');
} catch (Failed $failed) {
    fprintf(STDERR, "stopped: %s\n", $failed->getMessage());
    exit(1);
}
