<?php
// Enqueues jobs with the client that openapi-generator makes: php producer.php URL QUEUE KEY COUNT

use KestrelGateway\Api\JobsApi;
use KestrelGateway\ApiException;
use KestrelGateway\Configuration;
use KestrelGateway\Model\EnqueueRequest;
use KestrelGateway\Model\JobToEnqueue;
use KestrelGateway\Model\ProblemCode;

require __DIR__ . '/autoload.php';

function check(bool $ok, mixed $seen): void
{
    $ok || throw new Exception(print_r($seen, true));
}

[, $url, $queue, $key, $count] = $argv;
$jobs = new JobsApi(null, (new Configuration())->setHost($url)->setAccessToken($key));

$receipt = $jobs->enqueueJob($queue, ['to' => 'ada@example.org', 'n' => 1]);
check($receipt->getId() && $receipt->getQueue() === $queue, $receipt);

$text = new JobToEnqueue(['content_type' => 'text/plain', 'data' => 'Grüße an Ada']);
$bytes = implode('', array_map('chr', range(0, 255)));
$image = new JobToEnqueue(['content_type' => 'image/png', 'data_base64' => base64_encode($bytes)]);
$receipt = $jobs->enqueueJobs($queue, new EnqueueRequest(['jobs' => [$text, $image]]));
check(array_map(fn ($result) => $result->getStatus(), $receipt->getResults()) === [201, 201], $receipt);

// The same request sent twice is stored once.
$first = $jobs->enqueueJob("$queue-once", ['n' => 1], idempotency_key: 'order-1');
$again = $jobs->enqueueJob("$queue-once", ['n' => 1], idempotency_key: 'order-1');
check($first->getId() === $again->getId(), $again);
try {
    $jobs->enqueueJob("$queue-once", ['n' => 2], idempotency_key: 'order-1');
    check(false, 'the key was accepted with another body');
} catch (ApiException $error) {
    check($error->getResponseObject()->getCode() === ProblemCode::IDEMPOTENCY_KEY_REUSED, $error);
}

for ($n = 0; $n < $count; $n++) {
    $jobs->enqueueJob("$queue-many", ['n' => $n]);
}
