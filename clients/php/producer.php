<?php
// Enqueues jobs: reads them from standard input, a line of JSON each, and prints their ids. Needs ext-curl.
//
//   echo '{"to": "ada@example.org"}' | QUEUE=emails php producer.php

declare(strict_types=1);

require __DIR__ . '/gateway.php';

const GIVE_UP_S = 120;

/** Stores a job, given as JSON, and returns its id. Throws Failed. */
function enqueue(string $job): string
{
    // One key for all tries of this job. If it was stored and the answer got lost, the next try gets that answer.
    $key = bin2hex(random_bytes(16));
    return call('POST', QUEUE_PATH . '/jobs', $job, ["Idempotency-Key: $key"], GIVE_UP_S)['id'];
}

$number = 0;
try {
    while (($line = fgets(STDIN)) !== false) {
        $number++;
        echo enqueue($line), "\n";
    }
} catch (Failed $failed) {
    fprintf(STDERR, "line %d is not enqueued: %s\n", $number, $failed->getMessage());
    exit(1);
}
